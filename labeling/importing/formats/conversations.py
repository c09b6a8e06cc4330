"""What the formats of others have in common: how they write a chat, an answer and who is better."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from labeling.importing.records import (
    Meaning,
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

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
"""Where a turn of a transcript begins, as Anthropic's data sets write them."""

Messages = list[dict[str, str]]

NO_TASK = "prompts with fewer than two responses (no task)"
OF_ONE = "rankings of fewer than two responses"
ITS_OWN_TWIN = "judgments between a response and itself"
NOTHING_TO_ANSWER = "conversations that end with the assistant, where a prompt was expected"
EMPTY = "empty responses"
EMPTY_JUDGED = "rankings with fewer than two responses that are not empty"


def transcript(text: str) -> Messages:
    """Return the turns of a transcript, a text that begins with a TURN."""
    _, *parts = TURN.split(text)
    return [
        {"role": "user" if role == "Human" else "assistant", "content": content.strip()}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


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
    task_id: str = ""
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
            tally.left_out[ITS_OWN_TWIN if len(placed) > 1 else OF_ONE] += 1
            return
        tally.read["rankings"] += 1
        self.rankings.append(RankingRecord(reviewer, [tier for tier in kept if tier], **more))

    def records(self, tally: Tally) -> Iterator[PromptRecord]:
        """The prompt with one task of its responses; none when the chat cannot be answered."""
        if not can_be_answered(self.messages):
            tally.left_out[NOTHING_TO_ANSWER] += 1
            return
        self._drop_empty(tally)
        tally.read["responses"] += len(self.responses)
        tasks = self._tasks()
        tally.left_out[NO_TASK] += not tasks
        yield PromptRecord(
            self.line, self.messages, list(self.responses), tasks, self.external_id, self.meta
        )

    def _drop_empty(self, tally: Tally) -> None:
        """Remove responses without a text, which nobody could judge, from all rankings."""
        kept = [response for response in self.responses if response.text.strip()]
        if len(kept) == len(self.responses):
            return
        tally.left_out[EMPTY] += len(self.responses) - len(kept)
        new = {self.responses[response]: place for place, response in enumerate(kept)}
        self.responses = {response: place for place, response in enumerate(kept)}
        rankings = [_renumbered(ranking, new) for ranking in self.rankings]
        self.rankings = [ranking for ranking in rankings if sum(map(len, ranking.tiers)) > 1]
        tally.left_out[EMPTY_JUDGED] += len(rankings) - len(self.rankings)
        tally.read["rankings"] -= len(rankings) - len(self.rankings)

    def _tasks(self) -> list[TaskRecord]:
        """Of more than nine responses, several tasks as equal as possible."""
        places = list(range(len(self.responses)))
        if len(places) < 2:
            return []
        if len(places) <= MOST:
            rankings = [r for r in self.rankings if sum(map(len, r.tiers)) > 1]
            return [TaskRecord(self.line, places, rankings, external_id=self.task_id)]
        count = -(-len(places) // MOST)
        shares = [places[number::count] for number in range(count)]
        return [
            TaskRecord(
                self.line,
                share,
                [r for r in self._rankings_of(share) if r],
                external_id=self.task_id,
            )
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


def _renumbered(ranking: RankingRecord, new: Mapping[int, int]) -> RankingRecord:
    """Return the ranking with new places for its responses, without those that have none."""
    tiers = [[new[place] for place in tier if place in new] for tier in ranking.tiers]
    above = tiers[: ranking.cut] if ranking.cut is not None else []
    return replace(
        ranking,
        tiers=[tier for tier in tiers if tier],
        cut=None if ranking.cut is None else sum(map(bool, above)),
        ratings={new[place]: rated for place, rated in ranking.ratings.items() if place in new},
    )


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
    except (ValueError, OverflowError):
        return None
    return found if found - found == 0 else None


def text_of(value: dict[str, Any], names: Iterable[str]) -> str:
    """The first of these that holds something, as text."""
    found = next((value[name] for name in names if value.get(name) not in (None, "")), "")
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def name_of(value: Any) -> str:
    """Return an id as text: 0 is one; 7.0, as data frames write it, is 7; None is none."""
    value = finite(value)
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def account(
    row: dict[str, Any], meaning: Meaning, tally: Tally, prefix: str = ""
) -> dict[str, Any]:
    """Count every column of a row and return those to be kept with its prompt.

    `meaning`: what a format does with the columns it knows; it keeps all others.
    """
    tally.columns.add(row, meaning, prefix, default="metadata")
    return {
        name: finite(value)
        for name, value in row.items()
        if meaning.get(name, "metadata") == "metadata" and value not in ("", [], {}, None)
    }


def finite(value: Any) -> Any:
    """Return the value with None for NaN and infinity, which neither JSON nor a database keeps."""
    if isinstance(value, str):  # nearly every cell
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
