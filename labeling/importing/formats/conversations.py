"""Helpers that the formats share: for chats, for building prompts, and for orders from scores."""

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

MAX_RESPONSES = 9
NAMES_OF_ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant",
    "model": "assistant", "chatgpt": "assistant", "function": "tool", "developer": "system",
}  # fmt: skip

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
"""Matches the beginning of a turn in transcripts from Anthropic's data sets."""

Messages = list[dict[str, str]]

NO_TASK = "prompts with fewer than two responses (no task)"
OF_ONE = "rankings of fewer than two responses"
ITS_OWN_TWIN = "judgments between a response and itself"
NOTHING_TO_ANSWER = "conversations that end with the assistant, so that nothing is left to answer"
EMPTY = "empty responses"
EMPTY_JUDGED = "rankings with fewer than two responses that are not empty"


def transcript(text: str) -> Messages:
    """Return a transcript, which is a text that begins with a TURN, as messages."""
    _, *parts = TURN.split(text)
    return [
        {"role": "user" if role == "Human" else "assistant", "content": content.strip()}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def can_be_answered(messages: Messages) -> bool:
    return bool(messages) and messages[-1]["role"] != "assistant"


def same_start(first: Messages, second: Messages) -> int:
    """Return the number of messages in the common beginning of two chats."""
    count = 0
    for message, other in zip(first, second, strict=False):
        if message != other:
            break
        count += 1
    return count


@dataclass
class Draft:
    """A prompt that is being built. Equal texts by the same model become one response."""

    line: int
    messages: Messages
    responses: dict[ResponseRecord, int] = field(default_factory=dict)
    rankings: list[RankingRecord] = field(default_factory=list)
    external_id: str = ""
    task_id: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    def add(self, text: str, model: str = "", external_id: str = "") -> int:
        response = ResponseRecord(text, model or "unknown", external_id)
        return self.responses.setdefault(response, len(self.responses))

    def judge(
        self, reviewer: str, tiers: Iterable[Iterable[int]], tally: Tally, **more: Any
    ) -> None:
        """Add a reviewer's ranking, unless it compares a response with itself."""
        unique_tiers = [list(dict.fromkeys(tier)) for tier in tiers]
        indexes = [index for tier in unique_tiers for index in tier]
        if len(set(indexes)) < len(indexes) or len(indexes) < 2:
            tally.left_out[ITS_OWN_TWIN if len(indexes) > 1 else OF_ONE] += 1
            return
        tally.read["rankings"] += 1
        self.rankings.append(
            RankingRecord(reviewer, [tier for tier in unique_tiers if tier], **more)
        )

    def records(self, tally: Tally) -> Iterator[PromptRecord]:
        """Yield the prompt with its tasks, or nothing if the chat already ends with an answer."""
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
        """Remove responses without text, which cannot be judged, from the prompt and its rankings."""
        responses = [response for response in self.responses if response.text.strip()]
        if len(responses) == len(self.responses):
            return
        tally.left_out[EMPTY] += len(self.responses) - len(responses)
        new = {self.responses[response]: index for index, response in enumerate(responses)}
        self.responses = {response: index for index, response in enumerate(responses)}
        rankings = [_renumbered(ranking, new) for ranking in self.rankings]
        self.rankings = [ranking for ranking in rankings if sum(map(len, ranking.tiers)) > 1]
        tally.left_out[EMPTY_JUDGED] += len(rankings) - len(self.rankings)
        tally.read["rankings"] -= len(rankings) - len(self.rankings)

    def _tasks(self) -> list[TaskRecord]:
        """Return the prompt's tasks. More than nine responses are split into tasks of similar size."""
        indexes = list(range(len(self.responses)))
        if len(indexes) < 2:
            return []
        if len(indexes) <= MAX_RESPONSES:
            rankings = [r for r in self.rankings if sum(map(len, r.tiers)) > 1]
            return [TaskRecord(self.line, indexes, rankings, external_id=self.task_id)]
        count = -(-len(indexes) // MAX_RESPONSES)
        shares = [indexes[number::count] for number in range(count)]
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
            filled_tiers = [tier for tier in tiers if tier]
            yield (
                replace(ranking, tiers=filled_tiers, cut=cut)
                if sum(map(len, filled_tiers)) > 1
                else None
            )


def _renumbered(ranking: RankingRecord, new: Mapping[int, int]) -> RankingRecord:
    """Return the ranking with the `new` index of each response. Responses without one are removed."""
    tiers = [[new[index] for index in tier if index in new] for tier in ranking.tiers]
    above = tiers[: ranking.cut] if ranking.cut is not None else []
    return replace(
        ranking,
        tiers=[tier for tier in tiers if tier],
        cut=None if ranking.cut is None else sum(map(bool, above)),
        ratings={new[index]: rated for index, rated in ranking.ratings.items() if index in new},
    )


def in_tiers(scores: dict[int, float]) -> list[list[int]]:
    """Return tiers of indexes, highest score first. Equal scores are a tie."""
    ordered = sorted(scores, key=lambda index: (-scores[index], index))
    return [list(tied) for _, tied in groupby(ordered, key=lambda index: scores[index])]


def tiers_and_strength(
    first: int, second: int, preference: float
) -> tuple[list[list[int]], float | None]:
    """Return the tiers and the strength of a graded pair.

    `preference` is negative if the first is better and positive if the second is. A tie has no strength.
    """
    if not preference:
        return [[first, second]], None
    order = [[first], [second]] if preference < 0 else [[second], [first]]
    return order, min(max(abs(preference), 1), 3)


def number(value: Any) -> float | None:
    """Return a number, or a text that contains one, as a finite float, or None for other values."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if result - result == 0 else None


def text_of(value: dict[str, Any], names: Iterable[str]) -> str:
    """Return the value of the first of these names that is not empty, as text."""
    content = next((value[name] for name in names if value.get(name) not in (None, "")), "")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def name_of(value: Any) -> str:
    """Return an id as text. 0 is an id, 7.0 from a data frame becomes "7", and None becomes ""."""
    value = finite(value)
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def account(
    row: dict[str, Any], meaning: Meaning, tally: Tally, prefix: str = ""
) -> dict[str, Any]:
    """Count every column of a row, and return the values to store with its prompt.

    `meaning` contains the columns that a format uses; all other columns are stored.
    """
    tally.columns.add(row, meaning, prefix, default="metadata")
    return {
        name: finite(value)
        for name, value in row.items()
        if meaning.get(name, "metadata") == "metadata" and value not in ("", [], {}, None)
    }


def finite(value: Any) -> Any:
    """Return the value with None for NaN and infinity, which JSON and the database cannot store."""
    if value is None or isinstance(value, str):  # the usual case
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
