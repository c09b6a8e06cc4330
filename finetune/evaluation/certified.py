"""The conclusions of a certificate for its page, read from its file."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from finetune.certificate.conditions import length_sentence
from finetune.certificate.verdicts import SOURCES
from finetune.evaluation.conclusions import Standing, curves
from finetune.statistics.evidence import Evidence
from formatting.numbers import percent, percent_range

TITLES = {"people": "Reviewers, blind", "judge": "Judge"}


def standings_of(content: dict[str, Any]) -> list[Standing]:
    """Return what each source of verdicts proved when the certificate was issued."""
    return [
        _standing(evaluation, source, evaluation[source]["evidence"])
        for evaluation in content["evaluations"]
        for source in SOURCES
        if evaluation[source]["evidence"]
    ]


def _standing(evaluation: dict[str, Any], source: str, written: dict[str, Any]) -> Standing:
    decided, prompts = written["decided_after"], len(written["path"])
    counts = (
        "" if evaluation["counts"] else " It is against another baseline, so it does not count."
    )
    return Standing(
        source=f"{TITLES[source]}, evaluation {evaluation['evaluation']}",
        conclusion=written["conclusion"],
        sentence=f"{evaluation['candidate']['name']} against {evaluation['baseline']['name']}: "
        f"{written['conclusion']}, {f'proven after {decided} of' if decided else 'after'} {prompts} "
        f"prompts.{length_sentence(evaluation['at_equal_length'][source])}{counts}",
        prompts=prompts,
        mean=percent(written["win_rate"]),
        interval=percent_range(written["interval"]),
        level=percent(1 - written["alpha"]),
        curves=curves(_evidence(written)),
    )


def _evidence(written: dict[str, Any]) -> Evidence:
    columns = np.array(written["path"], dtype=float).reshape(-1, len(written["columns"])).T
    by_name = dict(zip(written["columns"], columns, strict=True))
    excess = written["excess"]
    return Evidence(
        units=by_name["unit"],
        alpha=written["alpha"],
        margin=written["margin"],
        log_better=by_name["log_better"],
        log_not_worse=by_name["log_not_worse"],
        log_worse=by_name["log_worse"],
        excess=None if excess is None else np.array(excess),
    )


def reviewers_of(content: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the pseudonyms of the reviewers with the number of their verdicts."""
    names = [row["reviewer"] for row in _verdicts(content)]
    return [(name, names.count(name)) for name in sorted(set(names))]


def _verdicts(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for evaluation in content["evaluations"]:
        yield from evaluation["people"]["verdicts"]
