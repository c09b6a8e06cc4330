"""Fast rendering of ranking sheets, by caching what the sheets of a project have in common.

For each combination of project, guideline version, number of responses, message roles, language and so
on, the template is rendered once with placeholders instead of the task's own values. A sheet is then
made by putting these values in place of the placeholders, so the template remains the only definition
of the page. This costs one query and the rendering of the task's Markdown, a tenth of the time that the
template takes. Without this module, `benchmarks.queue --http` stored 66 rankings/s instead of 151 (two
runs each, side by side on 2 cores); the goal is 200.
"""

import json
import re
import secrets
import uuid
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Any

from cachetools import TTLCache
from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import get_language

from accounts.access import user_of
from database.statements import fetch
from labeling.core import text
from labeling.core.chats import SPEAKERS, Message
from labeling.core.response_names import page_names
from labeling.models import Project, Slot, Task
from labeling.rankings.content import Policy
from labeling.reviewing.assignment import stage_of
from labeling.reviewing.sheet import Sheet

MAX_CACHED_TEXTS = 1024
MAX_CACHED_TEXT_LENGTH = 4000

_SHEET = """
SELECT task.kind, prompt.messages, place.response_id, response.text
FROM labeling_task task
JOIN labeling_prompt prompt ON prompt.id = task.prompt_id
JOIN labeling_taskresponse place ON place.task_id = task.id AND NOT place.withdrawn
JOIN labeling_response response ON response.id = place.response_id
WHERE task.id = %(task)s
"""


@dataclass(frozen=True)
class Placeholders:
    """Random values that no text contains, drawn when the process starts."""

    slot: int
    reviewer: int
    responses: Sequence[int]
    key: str
    csrf: str
    message: str
    exact_message: str
    response: str
    exact_response: str

    @classmethod
    def draw(cls) -> "Placeholders":
        base = secrets.randbelow(10**16) + 10**17
        word = secrets.token_hex(12)
        return cls(
            base, base + 1, range(base + 2, base + 11),
            f"k{word}", f"c{word}", f"m{word}-", f"em{word}-", f"r{word}-", f"er{word}-",
        )  # fmt: skip

    def pattern(self) -> re.Pattern[str]:
        numbers = "|".join(str(n) for n in (self.slot, self.reviewer, *self.responses))
        texts = "|".join(
            (self.exact_message, self.exact_response, self.message, self.response)
        )  # longer placeholders first, because they contain the shorter ones
        return re.compile(rf"({numbers}|{self.key}|{self.csrf}|(?:{texts})\d+_)")


PLACEHOLDERS = Placeholders.draw()
_PATTERN = PLACEHOLDERS.pattern()
_shapes: TTLCache[Hashable, list[str]] = TTLCache(maxsize=200, ttl=60)
_lock = Lock()  # cachetools' caches are not thread-safe


ContextOf = Callable[[HttpRequest, Project, Sheet], dict[str, Any]]


def sheet_html(
    request: HttpRequest, project: Project, slot: Slot, context_of: ContextOf
) -> str | None:
    """Return the HTML of reviewing/sheet.html for a slot, or None if the template itself must be rendered.

    The template is needed for a slot with a draft, for training and qualification, and if the project
    shows reviewers model names, scores or others' rankings.
    """
    policies = (project.sees_models, project.sees_others, project.sees_suggestions)
    shown_to_all = Project.Sees.ALWAYS in policies
    if slot.draft is not None or project.current_version is None or shown_to_all:
        return None
    rows = fetch(_SHEET, {"task": slot.task_id})
    kind, messages, texts = rows[0][0], rows[0][1], {row[2]: row[3] for row in rows}
    order = slot.shown_order or []
    if sorted(order) != sorted(texts) or (kind == Task.Kind.GOLD and stage_of(slot)):
        return None  # gold checks must be as fast as other tasks, or the time would reveal them
    messages = json.loads(messages) if isinstance(messages, str) else messages
    values: dict[str, str] = {
        str(PLACEHOLDERS.slot): str(slot.pk),
        str(PLACEHOLDERS.reviewer): str(user_of(request).pk),
        PLACEHOLDERS.key: str(uuid.uuid4()),
        PLACEHOLDERS.csrf: get_token(request),
    }
    for number, message in enumerate(messages):
        (
            values[f"{PLACEHOLDERS.message}{number}_"],
            values[f"{PLACEHOLDERS.exact_message}{number}_"],
        ) = _html(message["content"])
    names = page_names(slot.task_id, order)
    for number, response in enumerate(order):
        values[str(PLACEHOLDERS.responses[number])] = names[response]
        (
            values[f"{PLACEHOLDERS.response}{number}_"],
            values[f"{PLACEHOLDERS.exact_response}{number}_"],
        ) = _html(texts[response])
    roles = tuple(message["role"] for message in messages)
    pieces = _shape(request, project, len(order), roles, context_of)
    return "".join(map(values.get, pieces, pieces))


def _both(markdown: str) -> tuple[SafeString, SafeString]:
    return text.render(markdown), text.exact(markdown) or text.NOTHING


@lru_cache(maxsize=MAX_CACHED_TEXTS)
def _cached_html(markdown: str, language: str) -> tuple[SafeString, SafeString]:
    """Return the HTML from a cache. The key includes the language, as an empty text shows a note in it."""
    return _both(markdown)


def _html(markdown: str) -> tuple[SafeString, SafeString]:
    """Return the text rendered from Markdown, and exactly as written.

    Several reviewers see the same response within a short time, so short texts are cached.
    """
    if len(markdown) > MAX_CACHED_TEXT_LENGTH:
        return _both(markdown)
    return _cached_html(markdown, get_language() or "")


def _shape(
    request: HttpRequest, project: Project, k: int, roles: tuple[str, ...], context_of: ContextOf
) -> list[str]:
    """Return the rendered template, split at the placeholders. Every second piece is a placeholder."""
    key = (
        project.pk, project.slug, project.name, project.simulated, project.lease_minutes,
        Policy.of(project), project.current_version_id, k, roles, get_language(),
        request.COOKIES.get("guideline") == "closed",
    )  # fmt: skip
    with _lock:
        pieces = _shapes.get(key)
    if pieces is None:
        pieces = _PATTERN.split(_template_html(request, project, k, roles, context_of))
        with _lock:
            _shapes[key] = pieces
    return pieces


def _template_html(
    request: HttpRequest, project: Project, k: int, roles: tuple[str, ...], context_of: ContextOf
) -> str:
    task = Task(project=project, kind=Task.Kind.RANKING)
    sheet = Sheet(
        task=task,
        shown_order=PLACEHOLDERS.responses[:k],
        version=project.current_version,
        fields={"idempotency_key": [PLACEHOLDERS.key]},
        policy=Policy.of(project),
        slot=Slot(
            pk=PLACEHOLDERS.slot, project=project, task=task, reviewer_id=PLACEHOLDERS.reviewer
        ),
    )
    sheet.names = {placeholder: str(placeholder) for placeholder in PLACEHOLDERS.responses}
    sheet.messages = [
        Message(
            role,
            str(SPEAKERS.get(role, role)),
            _placeholder(PLACEHOLDERS.message, number),
            _placeholder(PLACEHOLDERS.exact_message, number),
        )
        for number, role in enumerate(roles)
    ]
    sheet.cards = [
        replace(
            sheet.card(number, PLACEHOLDERS.responses[number], ""),
            html=_placeholder(PLACEHOLDERS.response, number),
            exact=_placeholder(PLACEHOLDERS.exact_response, number),
        )
        for number in range(k)
    ]
    context = {
        **context_of(request, project, sheet),
        "draft_key": f"{PLACEHOLDERS.reviewer}-slot-{PLACEHOLDERS.slot}",
        "request": request,
        "user": request.user,
        "csrf_token": PLACEHOLDERS.csrf,
    }
    return render_to_string("labeling/reviewing/sheet.html", context)


def _placeholder(kind: str, number: int) -> Any:
    """Return a placeholder that escaping does not change: letters, digits and an underscore."""
    return f"{kind}{number}_"
