"""Preference data in the shapes of TRL, standard (texts) and conversational (messages).

    {"prompt": …, "chosen": …, "rejected": …}      a pair; the prompt may be left out, when it is the
                                                   part with which both texts or chats begin
    {"prompt": …, "completion": …, "label": true}  one response, wanted or not

A pair becomes a task with one ranking by the reviewer "trl". Unpaired rows of one prompt that follow
each other become one task: the wanted ones in a tier above the line, the others in a tier below.
The margin of a pair is left out: its scale is not known. See TRL's "Dataset formats and types".
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from labeling.importers.conversations import (
    Draft,
    Messages,
    as_messages,
    as_reply,
    from_json,
    plain_meta,
    same_start,
    text_of,
)
from labeling.importers.records import BadInput, PromptRecord, Tally
from labeling.importers.source import objects

REVIEWER = "trl"
USED = {"prompt", "chosen", "rejected", "completion", "label", "margin", "id", "prompt_id"}
USED |= {"model", "chosen_model", "rejected_model", "group_id", "messages"}
LABELS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}


def recognises(first: Any) -> bool:
    return isinstance(first, dict) and (
        {"chosen", "rejected"} <= first.keys() or {"prompt", "completion", "label"} <= first.keys()
    )


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    for paired, part in groupby(objects(path), key=lambda row: _is_pair(*row)):
        kind = _pairs if paired else _unpaired
        yield from kind(part, tally)


def _is_pair(_line: int, row: dict[str, Any]) -> bool:
    return "chosen" in row or "rejected" in row


# --- pairs ---------------------------------------------------------------------------------------


def _pairs(part: Iterator[tuple[int, Any]], tally: Tally) -> Iterator[PromptRecord]:
    for line, row in part:
        tally.read["pairs"] += 1
        messages, chosen, rejected = _sides(row, line)
        tally.left_out["margins (their scale is not known)"] += row.get("margin") is not None
        if chosen is None or rejected is None:
            tally.left_out["pairs that share no prompt, or differ in more than one answer"] += 1
            continue
        draft = Draft(
            line,
            messages,
            external_id=text_of(row, ("id", "prompt_id")),
            meta=plain_meta(row, USED),
        )
        better = draft.place(chosen, text_of(row, ("chosen_model",)))
        worse = draft.place(rejected, text_of(row, ("rejected_model",)))
        draft.judge(REVIEWER, [[better], [worse]], tally)
        yield from draft.records(tally)


def _sides(row: dict[str, Any], line: int) -> tuple[Messages, str | None, str | None]:
    """The prompt and both answers; None where they cannot be told apart."""
    chosen, rejected = from_json(row.get("chosen")), from_json(row.get("rejected"))
    prompt = row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _texts(prompt, chosen, rejected, line)
    said = [
        as_messages(side, line, name) for side, name in ((chosen, "chosen"), (rejected, "rejected"))
    ]
    first, second = said
    if prompt is not None:
        start = as_messages(prompt, line, "prompt")
        shared = len(start) if first[: len(start)] == second[: len(start)] == start else 0
        return start, _last(first, shared), _last(second, shared)
    shared = min(same_start(first, second), len(first) - 1, len(second) - 1)
    return first[:shared] or first, _last(first, shared), _last(second, shared)


def _last(messages: Messages, after: int) -> str | None:
    rest = messages[after:]
    return rest[0]["content"] if len(rest) == 1 and rest[0]["role"] == "assistant" else None


def _texts(
    prompt: Any, chosen: str, rejected: str, line: int
) -> tuple[Messages, str | None, str | None]:
    if prompt is not None:
        return as_messages(prompt, line, "prompt"), chosen, rejected
    shared = _shared_words(chosen, rejected)
    if not shared.strip():
        return [{"role": "user", "content": "-"}], None, None
    return (
        [{"role": "user", "content": shared.rstrip()}], chosen[len(shared) :], rejected[len(shared) :]
    )  # fmt: skip


def _shared_words(first: str, second: str) -> str:
    """What both begin with, up to the last space before they part, so that no word is cut."""
    end = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    end = end or min(len(first), len(second))
    while end and not first[end - 1].isspace():
        end -= 1
    return first[:end]


# --- unpaired ------------------------------------------------------------------------------------


def _unpaired(part: Iterator[tuple[int, Any]], tally: Tally) -> Iterator[PromptRecord]:
    read = ((line, as_messages(row.get("prompt"), line, "prompt"), row) for line, row in part)
    for _, same in groupby(read, key=lambda one: one[1]):
        yield from _labelled(list(same), tally)


def _labelled(
    same: list[tuple[int, Messages, dict[str, Any]]], tally: Tally
) -> Iterator[PromptRecord]:
    line, messages, first = same[0]
    draft = Draft(line, messages, external_id=text_of(first, ("id", "prompt_id")))
    wanted: dict[int, bool] = {}
    for at, _, row in same:
        tally.read["labelled responses"] += 1
        place = draft.place(
            as_reply(row.get("completion"), at, "completion"), text_of(row, ("model",))
        )
        label = _label(row.get("label"), at)
        if wanted.setdefault(place, label) != label:
            tally.left_out["second labels of the same response, which differ"] += 1
    good = [place for place, label in wanted.items() if label]
    bad = [place for place, label in wanted.items() if not label]
    if len(wanted) > 1:
        draft.judge(REVIEWER, [good, bad], tally, cut=1 if good else 0)
    yield from draft.records(tally)


def _label(value: Any, line: int) -> bool:
    said = value.strip().lower() if isinstance(value, str) else value
    try:
        return LABELS[said]
    except (KeyError, TypeError):
        raise BadInput(f'"label" must be true or false; got {value!r}.', line) from None
