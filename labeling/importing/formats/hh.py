r"""Anthropic's HH-RLHF: rows with "chosen" and "rejected", each a whole transcript as one text.

    {"chosen": "\n\nHuman: …\n\nAssistant: …", "rejected": "\n\nHuman: …\n\nAssistant: …"}

The turns that both have in common are the prompt. The assistant's last turns are the two responses, with
one ranking by the reviewer "hh-rlhf". Transcripts that differ before the last turn are left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labeling.importing.files.source import each_row
from labeling.importing.formats.conversations import TURN, Draft, Messages, account, transcript
from labeling.importing.records import BadInput, PromptRecord, Tally

REVIEWER = "hh-rlhf"
MEANING = {"chosen": "chosen", "rejected": "rejected"}


def recognises(first: Any) -> bool:
    return isinstance(first, dict) and all(
        isinstance(first.get(side), str) and TURN.match(first[side])
        for side in ("chosen", "rejected")
    )


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    yield from each_row(path, tally, lambda line, row: _records(line, row, tally))


def _records(line: int, row: dict[str, Any], tally: Tally) -> Iterator[PromptRecord]:
    tally.read["pairs"] += 1
    meta = account(row, MEANING, tally)
    chosen, rejected = (_turns(row.get(side), side, line) for side in ("chosen", "rejected"))
    ends = {chosen[-1]["role"], rejected[-1]["role"]}
    if chosen[:-1] != rejected[:-1] or ends != {"assistant"}:
        tally.left_out["pairs whose transcripts differ before the last turn"] += 1
        return
    draft = Draft(line, chosen[:-1], meta=meta)
    sides = [[draft.add(side[-1]["content"])] for side in (chosen, rejected)]
    draft.judge(REVIEWER, sides, tally)
    yield from draft.records(tally)


def _turns(text: Any, side: str, line: int) -> Messages:
    if not isinstance(text, str) or not TURN.match(text):
        raise BadInput(f'"{side}" must be a text that begins with "Human:".', line)
    return transcript(text)
