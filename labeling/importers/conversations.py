"""What the formats of others have in common: how they write a chat, an answer and who is better."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from labeling.importers.records import (
    ROLES,
    BadInput,
    PromptRecord,
    RankingRecord,
    ResponseRecord,
    Tally,
    TaskRecord,
)

MOST = 9
NAMES_OF_ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant",
    "model": "assistant", "chatgpt": "assistant", "function": "tool", "developer": "system",
}  # fmt: skip

Messages = list[dict[str, str]]

NO_TASK = "prompts with fewer than two responses (no task)"
ITS_OWN_TWIN = "judgments between a response and itself"
NOTHING_TO_ANSWER = "conversations that end with the assistant, where a prompt was expected"


def as_messages(value: Any, line: int, name: str) -> Messages:
    """A text, a chat, or the JSON of a chat, as a chat. Raises BadInput."""
    value = from_json(value)
    if isinstance(value, str):
        if not value.strip():
            raise BadInput(f'"{name}" is empty.', line)
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise BadInput(f'"{name}" must be a text or a list of messages, not empty.', line)
    return [_message(one, line, name) for one in value]


def from_json(value: Any) -> Any:
    """A cell of a CSV holds a list or an object as its JSON; any other value stays as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            found = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return value
        return found if _is_structure(found) else value
    return value


def _is_structure(value: Any) -> bool:
    """A chat, a list of texts or an object: not a text such as "[1]" that happens to be JSON."""
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(v, dict | str) for v in value)
    )


def _message(value: Any, line: int, name: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadInput(f'a message of "{name}" must be {{"role": …, "content": …}}.', line)
    role = str(value.get("role") or value.get("from") or "").lower()
    role = NAMES_OF_ROLES.get(role, role)
    if role not in ROLES:
        raise BadInput(f'a role in "{name}" is one of {", ".join(ROLES)}; got {role!r}.', line)
    content = _joined(value.get("content", value.get("value")))
    if content is None:
        raise BadInput(f'a {role} message of "{name}" has no text.', line)
    return {"role": role, "content": content}


def _joined(content: Any) -> str | None:
    """Text, or the texts of content in parts; None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    found = [part.get("text") if isinstance(part, dict) else None for part in content]
    texts = [text for text in found if isinstance(text, str)]
    return "\n\n".join(texts) if len(texts) == len(found) else None


def as_reply(value: Any, line: int, name: str) -> str:
    """One answer: a text, or a list of one assistant message. Raises BadInput."""
    value = from_json(value)
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, str):
        return value
    said = as_messages(value, line, name)
    if len(said) != 1 or said[0]["role"] != "assistant":
        raise BadInput(f'"{name}" must be a text or one message by the assistant.', line)
    return said[0]["content"]


def can_be_answered(messages: Messages) -> bool:
    return bool(messages) and messages[-1]["role"] != "assistant"


def same_start(first: Messages, second: Messages) -> int:
    """How many messages two chats share from the beginning."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


@dataclass
class Draft:
    """A prompt in the making. Two answers that are the same text by the same model are one."""

    line: int
    messages: Messages
    responses: dict[ResponseRecord, int] = field(default_factory=dict)
    rankings: list[RankingRecord] = field(default_factory=list)
    external_id: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def place(self, text: str, model: str = "", external_id: str = "") -> int:
        response = ResponseRecord(text, model or "unknown", external_id)
        return self.responses.setdefault(response, len(self.responses))

    def judge(
        self, reviewer: str, tiers: Iterable[Iterable[int]], tally: Tally, **more: Any
    ) -> None:
        """Take what a reviewer said, unless it compares a response with itself."""
        kept = [list(dict.fromkeys(tier)) for tier in tiers]
        placed = [place for tier in kept for place in tier]
        if len(set(placed)) < len(placed) or len(placed) < 2:
            tally.left_out[ITS_OWN_TWIN] += 1
            return
        tally.read["rankings"] += 1
        self.rankings.append(RankingRecord(reviewer, [tier for tier in kept if tier], **more))

    def records(self, tally: Tally) -> Iterator[PromptRecord]:
        """The prompt with one task of its responses; none when the chat cannot be answered."""
        if not can_be_answered(self.messages):
            tally.left_out[NOTHING_TO_ANSWER] += 1
            return
        tally.read["responses"] += len(self.responses)
        tasks = self._tasks()
        tally.left_out[NO_TASK] += not tasks
        yield PromptRecord(
            self.line, self.messages, list(self.responses), tasks, self.external_id, self.meta
        )

    def _tasks(self) -> list[TaskRecord]:
        """Of more than nine responses, several tasks as equal as possible."""
        places = list(range(len(self.responses)))
        if len(places) < 2:
            return []
        count = -(-len(places) // MOST)
        shares = [places[number::count] for number in range(count)]
        return [
            TaskRecord(self.line, share, [r for r in self._rankings_of(share) if r])
            for share in shares
        ]

    def _rankings_of(self, share: Sequence[int]) -> Iterator[RankingRecord | None]:
        among = set(share)
        for ranking in self.rankings:
            above = ranking.tiers[: ranking.cut] if ranking.cut is not None else []
            tiers = [[p for p in tier if p in among] for tier in ranking.tiers]
            cut = None if ranking.cut is None else sum(any(p in among for p in t) for t in above)
            kept = [tier for tier in tiers if tier]
            yield replace(ranking, tiers=kept, cut=cut) if sum(map(len, kept)) > 1 else None


def in_tiers(scores: dict[int, float]) -> list[list[int]]:
    """Places by score, highest first; the same score is a tie."""
    ordered = sorted(scores, key=lambda place: (-scores[place], place))
    return [list(tied) for _, tied in groupby(ordered, key=lambda place: scores[place])]


def signed(first: int, second: int, preference: float) -> tuple[list[list[int]], float | None]:
    """Tiers and strength of a graded pair: below 0 the first is better, above 0 the second."""
    if not preference:
        return [[first, second]], None
    order = [[first], [second]] if preference < 0 else [[second], [first]]
    return order, min(max(abs(preference), 1), 3)


def number(value: Any) -> float | None:
    """A finite number, also where it is written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if found - found == 0 else None


def text_of(value: dict[str, Any], names: Iterable[str]) -> str:
    """The first of these that holds something, as text."""
    found = next((value[name] for name in names if value.get(name) not in (None, "")), "")
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def name_of(value: Any) -> str:
    """Return an id as text; 0 is one, None is none."""
    return "" if value is None else str(value)


def account(
    row: dict[str, Any], meaning: Mapping[str, str], tally: Tally, prefix: str = ""
) -> dict[str, Any]:
    """Count every column of a row and return those to be kept with its prompt.

    `meaning`: what a format does with the columns it knows; it keeps all others.
    """
    tally.columns.add(row, {name: meaning.get(name, "metadata") for name in row}, prefix)
    return {
        name: finite(value)
        for name, value in row.items()
        if meaning.get(name, "metadata") == "metadata" and value not in ("", [], {}, None)
    }


def finite(value: Any) -> Any:
    """Return the value with None for NaN and infinity, which neither JSON nor a database keeps."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
