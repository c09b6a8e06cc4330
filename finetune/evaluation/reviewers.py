"""The dependence of an evaluation's conclusion on single reviewers."""

from collections.abc import Iterable
from dataclasses import dataclass

from finetune.models import BlindVerdict, Evaluation
from finetune.statistics.evidence import Conclusion
from formatting.numbers import percent, percent_range


@dataclass(frozen=True)
class ReviewerRow:
    """A reviewer's verdicts, and the conclusion of all other reviewers."""

    reviewer: int
    verdicts: int
    rate: str
    rate_without: str
    interval_without: str
    conclusion_without: Conclusion
    changes: bool
    """Whether the conclusion is another one without this reviewer."""


def reviewer_rows(evaluation: Evaluation, verdicts: Iterable[BlindVerdict]) -> list[ReviewerRow]:
    """Return a row for each reviewer whose verdicts count, most verdicts first.

    Without a reviewer, the remaining verdicts on a prompt are averaged. Prompts that only this reviewer
    judged are left out. Takes about 0.2 s per reviewer, and at most one query.
    """
    counted = evaluation.counted(verdicts)
    everybody = evaluation.evidence_from(counted)
    if everybody is None:
        return []
    by_reviewer: dict[int, list[float]] = {}
    for verdict in counted:
        by_reviewer.setdefault(verdict.reviewer, []).append(verdict.value)
    rows = []
    for reviewer, values in by_reviewer.items():
        rest = [verdict for verdict in counted if verdict.reviewer != reviewer]
        without = evaluation.evidence_from(rest) if rest else evaluation.evidence_of([])
        assert without is not None
        rows.append(
            ReviewerRow(
                reviewer=reviewer,
                verdicts=len(values),
                rate=percent(sum(values) / len(values)),
                rate_without=percent(without.mean),
                interval_without=percent_range(without.interval),
                conclusion_without=without.conclusion,
                changes=without.conclusion is not everybody.conclusion,
            )
        )
    return sorted(rows, key=lambda row: (-row.verdicts, row.reviewer))
