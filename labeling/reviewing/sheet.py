"""The content of the ranking page: the prompt, the responses and the values that were entered."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_uppercase

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labeling.core.chats import Message, conversation
from labeling.core.response_names import page_names
from labeling.core.text import exact, render
from labeling.guidelines.versions import criteria_of
from labeling.models import Criterion, GuidelineVersion, Response, Slot, Task
from labeling.rankings.content import ANYTHING, FLAGS, MAX_RATIONALE_LENGTH, Errors, Policy
from labeling.rankings.forms import Fields, first

GRADES = (
    ("-3", gettext_lazy("A is much better")),
    ("-2", gettext_lazy("A is better")),
    ("-1", gettext_lazy("A is slightly better")),
    ("0", gettext_lazy("Equally good")),
    ("1", gettext_lazy("B is slightly better")),
    ("2", gettext_lazy("B is better")),
    ("3", gettext_lazy("B is much better")),
)


@dataclass(frozen=True)
class Rating:
    name: str
    field: str
    meaning: str
    choices: Sequence[int]
    value: str


@dataclass(frozen=True)
class Card:
    """A response as the reviewer sees it, without the model's name.

    `name` identifies the response on the page, where its id must not appear.
    """

    id: int
    name: str
    letter: str
    html: SafeString
    exact: SafeString | None
    rank: str
    ratings: Sequence[Rating]
    flags: Sequence[tuple[str, str, bool]]

    @property
    def has_extras(self) -> bool:
        return any(rating.value for rating in self.ratings) or any(on for *_, on in self.flags)


class Sheet:
    """The content of the ranking page for one task.

    Costs one query for the responses, and one for the guideline's criteria if they are not cached.
    """

    longest_rationale = MAX_RATIONALE_LENGTH

    def __init__(
        self,
        *,
        task: Task,
        shown_order: Sequence[int],
        version: GuidelineVersion | None,
        fields: Fields | None = None,
        errors: Errors | None = None,
        policy: Policy = ANYTHING,
        slot: Slot | None = None,
    ) -> None:
        self.task = task
        self.shown_order = list(shown_order)
        self.version = version
        self.fields = fields or {}
        self.errors = errors or {}
        self.policy = policy
        self.slot = slot

    @cached_property
    def messages(self) -> list[Message]:
        return conversation(self.task.prompt.messages)

    @cached_property
    def names(self) -> dict[int, str]:
        """Return the responses' names on the page, keyed by response id."""
        return page_names(self.task.pk, self.shown_order)

    @property
    def shown_names(self) -> str:
        return ",".join(self.names[response] for response in self.shown_order)

    @cached_property
    def criteria(self) -> list[Criterion]:
        return list(criteria_of(self.version)) if self.version else []

    @cached_property
    def cards(self) -> list[Card]:
        texts = dict(Response.objects.filter(places__task=self.task).values_list("id", "text"))
        return [
            self.card(index, response, texts[response])
            for index, response in enumerate(self.shown_order)
        ]

    def card(self, index: int, response: int, text: str) -> Card:
        flagged = self.fields.get(f"flag-{response}", [])
        return Card(
            id=response,
            name=self.names[response],
            letter=ascii_uppercase[index],
            html=render(text),
            exact=exact(text),
            rank=first(self.fields, f"rank-{response}"),
            ratings=[self._rating(response, criterion) for criterion in self.criteria],
            flags=[(name, str(label), name in flagged) for name, label in FLAGS.items()],
        )

    def _rating(self, response: int, criterion: Criterion) -> Rating:
        return Rating(
            name=criterion.name,
            field=f"rating-{self.names[response]}-{criterion.name}",
            meaning=criterion.meaning,
            choices=range(1, criterion.scale + 1),
            value=first(self.fields, f"rating-{response}-{criterion.name}"),
        )

    @property
    def ranks(self) -> Sequence[str]:
        return [str(rank) for rank in range(1, len(self.shown_order) + 1)]

    @property
    def pair(self) -> bool:
        """Return whether there are only two responses. A pair is graded instead of ranked."""
        return len(self.shown_order) == 2

    @property
    def grades(self) -> list[tuple[str, str, bool]]:
        """Return (value, label, selected) for each grade. If ties are not allowed, there is no grade 0."""
        chosen = first(self.fields, "strength")
        return [
            (value, str(words), value == chosen)
            for value, words in GRADES
            if self.policy.ties or value != "0"
        ]

    @property
    def cuts(self) -> list[tuple[str, str]]:
        if self.pair:
            worse = ("1", _("The worse one is unacceptable"))
            return [("", _("Both are acceptable")), worse, ("0", _("Both are unacceptable"))]
        *ranks, last = self.ranks
        below = [(rank, _("Below rank %s") % rank) for rank in ranks]
        below.append((last, _("Below rank %s: none is unacceptable") % last))
        return [("", _("No line")), ("0", _("All are unacceptable")), *below]

    @property
    def cut(self) -> str:
        return first(self.fields, "cut")

    @property
    def rationale(self) -> str:
        return first(self.fields, "rationale")

    @property
    def active_seconds(self) -> str:
        return first(self.fields, "active_seconds") or "0"

    @cached_property
    def idempotency_key(self) -> str:
        return first(self.fields, "idempotency_key") or str(uuid.uuid4())

    @cached_property
    def guideline_html(self) -> SafeString | None:
        return render(self.version.text, line_breaks=False) if self.version else None
