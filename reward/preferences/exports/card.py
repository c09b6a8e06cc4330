"""The card next to an exported file, with its content, the treatment of ties and the rows left out.

The name of the card is NAME.about.md, which loaders of data sets ignore.
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
    "prompts_of_the_other_split": "prompts left out: not in this split",
    "pairs_tied": "pairs left out: neither response won more",
    "pairs_never_compared": "pairs left out: no ranking compares the two responses",
    "pairs_given_both_ways": "pairs given in both directions: neither response won more",
    "pairs_identical": "pairs left out: both responses are the same text",
    "pairs_under_margin": "pairs left out: their margin is under the minimum",
    "pairs_over_maximum": "pairs left out: clearer pairs of the same prompt reach the maximum",
    "responses_even": "responses left out: equal votes for and against",
    "rankings_superseded": "rankings left out: replaced by their reviewer's own revision",
    **left_out.REASONS,
}
TIES_KEPT = "kept: responses in the same tier are tied"
REVIEWERS = {
    "names": "usernames",
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
    """Return the card as Markdown. It ends with the same information as JSON."""
    paragraphs = [
        f"# {name}",
        f"Project {plan['project']}, "
        + (f"snapshot {plan['snapshot']}" if plan["snapshot"] else "current rankings")
        + f", as {plan['format']} in {plan['file']}.",
        f"Ties: {TIES[plan['ties']] if plan['ties'] else TIES_KEPT}.",
        *_limit_lines(plan),
        f"Reviewers: {REVIEWERS[plan['reviewers']]}.",
    ]
    if agreement:
        paragraphs.append(in_words(agreement))
    if cuts:
        times = "once" if cuts == 1 else f"{cuts} times"
        paragraphs.append(
            f"The export was interrupted {times} and resumed. Rankings made in between are in later rows."
        )
    table = ["| | |", "|---|---:|", *(f"| {label_of(key)} | {n:,} |" for key, n in counts.items())]
    about = {"file": name, **plan, "counts": counts, "cuts": cuts, "pairwise_agreement": agreement}
    about["exported_at"] = timezone.now().isoformat(timespec="seconds")
    fenced = "```json\n" + json.dumps(about, indent=1, ensure_ascii=False) + "\n```"
    return "\n\n".join([*paragraphs, "\n".join(table), fenced]) + "\n"


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
    """Return the label of a count."""
    reason = key.removeprefix("rankings_left_out_")
    if reason == key:
        return COUNTS.get(key, key)
    sentence = REASONS.get(reason, reason)
    return f"rankings left out: {sentence[:1].lower()}{sentence[1:].rstrip('.')}"
