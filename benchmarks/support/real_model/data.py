"""Rankings of people, read from files in the formats of the import, as groups of a run directory.

Legend: K responses of a prompt.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from recipes.preferences.groups import Group, Judgment, keep_responses

HELD_OUT = 3
"""One of this many prompts is held out."""

Length = Callable[[str], int]
"""The number of tokens of a text."""


@dataclass
class Rankings:
    """Groups by split, and the number of prompts and responses left out, by reason."""

    groups: list[Group] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def of(self, split: str) -> list[Group]:
        return [group for group in self.groups if group.split == split]


def read_rankings(
    paths: Sequence[Path], length: Length, *, longest_prompt: int, longest_response: int
) -> Rankings:
    """Read the ranked responses of files. Prompts and responses that are too long are left out.

    Prompts are in the order of a hash of their text, so the same files give the same splits. Raises
    BadInput if a file is not in a known format, and ValueError without prompts in both splits.
    """
    rankings = Rankings()
    prompts: dict[str, Group] = {}
    for path in paths:
        for group in _groups_of(path):
            if group.group_id in prompts:
                rankings.left_out["prompts that an earlier line has too"] += 1
            else:
                prompts[group.group_id] = group
    for _, group in sorted(prompts.items()):
        if length("\n".join(message["content"] for message in group.prompt)) > longest_prompt:
            rankings.left_out["prompts that are too long"] += 1
            continue
        short = [
            number
            for number, text in zip(group.response_ids, group.responses, strict=True)
            if text.strip() and length(text) <= longest_response
        ]
        rankings.left_out["responses that are too long or empty"] += len(group.responses) - len(
            short
        )
        if len(short) < 2:
            rankings.left_out["prompts with fewer than two short responses"] += 1
            continue
        split = "train" if len(rankings.groups) % HELD_OUT else "test"
        rankings.groups.append(replace(keep_responses(group, short), split=split))
    if len({group.split for group in rankings.groups}) < 2:
        raise ValueError(
            f"Only {len(rankings.groups)} prompts of {', '.join(map(str, paths))} have two ranked "
            f"responses of at most {longest_response} tokens. Allow longer ones or add a file."
        )
    return rankings


def _groups_of(path: Path) -> Iterator[Group]:
    """Yield a group for each prompt with a ranking, with the responses that somebody ranked."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    from labeling.importing.reading import detect, proposal_of, reader
    from labeling.importing.records import BadInput, Tally

    form, tally = detect(path), Tally()
    if form.read is not None:
        records = form.read(path, tally)
    else:
        proposal = proposal_of(path)
        if proposal.questions:
            raise BadInput(f"{path.name}: {' '.join(proposal.questions.values())}")
        records = reader.read(path, tally, proposal.mapping, proposal.reviewer)
    for record in records:
        judgments = [
            Judgment(r.reviewer, r.tiers, r.cut, r.strength)
            for task in record.tasks
            for r in task.rankings
        ]
        ranked = {number for judgment in judgments for tier in judgment.tiers for number in tier}
        if len(ranked) < 2:
            continue
        texts = [response.text for response in record.responses]
        chat = json.dumps(record.messages, sort_keys=True)
        name = hashlib.sha256(chat.encode()).hexdigest()[:16]
        group = Group(name, record.messages, list(range(len(texts))), texts, judgments)
        yield keep_responses(group, sorted(ranked))


def with_lines(group: Group) -> Group:
    """Return the group with an unacceptable line in each ranking that lacks one.

    The line is below the better half of the tiers. A ranking with a single tier gets none. The file
    does not say which responses are acceptable, so this is an assumption for trying KTO.
    """
    return replace(
        group,
        rankings=[
            replace(r, cut=len(r.tiers) // 2) if r.cut is None and len(r.tiers) > 1 else r
            for r in group.rankings
        ],
    )
