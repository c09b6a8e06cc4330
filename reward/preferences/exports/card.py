"""The card next to an exported file: what it is, what a tie became, what was left out.

A file NAME.about.md, which loaders of data sets pass over.
"""

import json
from pathlib import Path
from typing import Any

from django.utils import timezone

from labeling.statistics.agreement import in_words
from reward.preferences.exports import left_out
from reward.preferences.exports.shapes import TIES
from reward.preferences.filters import REASONS

COUNTS = {
    "rows": "rows",
    "prompts": "prompts",
    "rankings": "rankings",
    "prompts_of_the_other_split": "prompts left out: of the other side of the split",
    "pairs_tied": "pairs left out: neither response has won more",
    "pairs_never_compared": "pairs left out: no ranking compares the two",
    "pairs_given_both_ways": "pairs given both ways: neither response has won more",
    "pairs_identical": "pairs left out: both responses are the same text",
    "pairs_under_margin": "pairs left out: their margin is under the minimum",
    "pairs_over_maximum": "pairs left out: clearer pairs of the same prompt reach the maximum",
    "responses_even": "responses left out: as much for them as against them",
    "rankings_superseded": "rankings left out: replaced by their reviewer's own revision",
    **left_out.REASONS,
}
KEPT = "kept as they are: responses in one tier are tied"
PEOPLE = {
    "names": "their user names",
    "pseudonyms": "pseudonyms, the same in every export of this project",
}


def path_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.about.md")


def write(
    path: Path,
    plan: dict[str, Any],
    counts: dict[str, int],
    *,
    cuts: int = 0,
    agreement: dict[str, Any] | None = None,
) -> Path:
    card = path_of(path)
    draft = card.with_name(f".{card.name}.draft")
    draft.write_text(
        text(path.name, plan, counts, cuts=cuts, agreement=agreement), encoding="utf-8"
    )
    draft.replace(card)
    return card


def text(
    name: str,
    plan: dict[str, Any],
    counts: dict[str, int],
    *,
    cuts: int = 0,
    agreement: dict[str, Any] | None = None,
) -> str:
    """Markdown that ends with the same as JSON."""
    said = [
        f"# {name}",
        f"Project {plan['project']}, "
        + (f"snapshot {plan['snapshot']}" if plan["snapshot"] else "its rankings at the time")
        + f", as {plan['format']} in {plan['file']}.",
        f"Ties: {TIES[plan['ties']] if plan['ties'] else KEPT}.",
        *_limit_lines(plan),
        f"Reviewers: {PEOPLE[plan['reviewers']]}.",
    ]
    if agreement:
        said.append(in_words(agreement))
    if cuts:
        times = "once" if cuts == 1 else f"{cuts} times"
        said.append(
            f"It was cut off {times} and continued: rankings made in between are in the later part."
        )
    table = ["| | |", "|---|---:|", *(f"| {label_of(key)} | {n:,} |" for key, n in counts.items())]
    about = {"file": name, **plan, "counts": counts, "cuts": cuts, "pairwise_agreement": agreement}
    about["exported_at"] = timezone.now().isoformat(timespec="seconds")
    fenced = "```json\n" + json.dumps(about, indent=1, ensure_ascii=False) + "\n```"
    return "\n\n".join([*said, "\n".join(table), fenced]) + "\n"


def _limit_lines(plan: dict[str, Any]) -> list[str]:
    if "min_margin" not in plan:
        return []
    most = plan["max_pairs_per_prompt"]
    return [
        f"Training pairs: {'all' if most is None else f'at most {most}'} per prompt, the clearest "
        f"first, with a margin of at least {plan['min_margin']:g}. Pairs of identical texts are "
        f"{'kept' if plan['keep_identical'] else 'left out'}."
    ]


def label_of(key: str) -> str:
    reason = key.removeprefix("rankings_left_out_")
    if reason != key:
        return f"rankings left out: {REASONS.get(reason, reason)[:1].lower()}{REASONS.get(reason, reason)[1:].rstrip('.')}"
    return COUNTS.get(key, key)
