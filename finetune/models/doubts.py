"""What the verdicts of an evaluation prove, and the reasons why they do not suffice for a promotion."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.models.regression import RegressionSet
from finetune.statistics.evidence import Conclusion, Evidence
from finetune.statistics.length_control import LengthControlled
from finetune.statistics.regression import RegressionResult
from finetune.statistics.reviewer_effects import GeneralRate
from formatting.numbers import percent
from labeling.models import Project

if TYPE_CHECKING:
    from finetune.models.evaluations import Evaluation

LLM = "llm:"
"""The beginning of the name of an LLM judge. The number of its model follows."""
MOST_WITHOUT_VERDICT = 0.05
"""The largest share of pairs without a verdict with which an LLM judge counts for a promotion."""


@dataclass(frozen=True)
class Sources:
    """The evidence of each source of verdicts, or None for a source without complete verdicts."""

    people: Evidence | None
    judge: Evidence | None
    general: GeneralRate | None = None
    """The win rate over reviewers in general, if the evaluation is about them."""
    people_at_equal_length: LengthControlled | None = None
    judge_at_equal_length: LengthControlled | None = None
    regression: RegressionResult | None = None


def proofs_against(evaluation: "Evaluation", sources: Sources) -> list[str]:
    """Return a sentence for each source of verdicts, and for a regression set, that proves it worse.

    The judge and the regression set count under each policy.
    """
    against = [
        f"Evaluation {evaluation.pk} proves it worse than {evaluation.baseline}, by {source}."
        for source, evidence in (("people", sources.people), ("its judge", sources.judge))
        if evidence is not None and evidence.conclusion is Conclusion.WORSE
    ]
    result = sources.regression
    if result is not None and result.conclusion is Conclusion.WORSE:
        against.append(
            f"Evaluation {evaluation.pk} proves it worse than {evaluation.baseline} on "
            f"{evaluation.regression_set}: it lost {result.lost} of {result.prompts} prompts and won "
            f"{result.won}."
        )
    return against


def doubts_about_evaluation(evaluation: "Evaluation", sources: Sources) -> list[str]:
    """Return the reasons why it does not meet the project's policy, each as a sentence."""
    if not evaluation.is_registered:
        return [
            f"Evaluation {evaluation.pk} against {evaluation.baseline} was not registered before it started, "
            "so it proves nothing. Evaluate the model again."
        ]
    return [
        *doubts_about_verdicts(evaluation, sources),
        *doubts_about_regression(evaluation, sources),
    ]


def doubts_about_verdicts(evaluation: "Evaluation", sources: Sources) -> list[str]:
    """Return the reasons why the verdicts do not prove a win, each as a sentence."""
    deciding = [(sources.people, True)]
    obstacle = ""
    if evaluation.project.promotion_policy == Project.Promotion.JUDGE:
        obstacle = judge_obstacle(evaluation)
        deciding += [] if obstacle else [(sources.judge, False)]
    wins = [
        doubts_about_win(evaluation, sources, of_people=of_people)
        for evidence, of_people in deciding
        if evidence is not None and evidence.conclusion is Conclusion.BETTER
    ]
    if wins:
        return [] if [] in wins else wins[0]
    counted = [evidence for evidence, _ in deciding if evidence is not None]
    if not counted and obstacle:
        return [obstacle]
    if not counted:
        return [
            f"{evaluation.project} needs people's verdicts, and evaluation {evaluation.pk} against "
            f"{evaluation.baseline} has none. Rank its blind comparisons, or evaluate the model again "
            "and ask people."
        ]
    evidence = counted[0]
    low, high = map(percent, evidence.interval)
    return [
        f"Evaluation {evaluation.pk} does not prove it better than {evaluation.baseline}: after "
        f"{len(evidence.units)} prompts, its win rate is between {low} and {high}."
    ]


def doubts_about_win(evaluation: "Evaluation", sources: Sources, *, of_people: bool) -> list[str]:
    """Return the reasons why a proven win of one source may not be one, each as a sentence."""
    return [
        *doubts_about_length(
            evaluation,
            sources.people_at_equal_length if of_people else sources.judge_at_equal_length,
        ),
        *(doubts_about_reviewers(evaluation, sources) if of_people else []),
    ]


def doubts_about_regression(evaluation: "Evaluation", sources: Sources) -> list[str]:
    """Return a sentence unless it is proven not worse on the regression set, if the project needs that.

    Costs a query if it does.
    """
    project = evaluation.project
    if not project.require_regression_set:
        return []
    newest = RegressionSet.newest(project.pk)
    if newest is None:
        return [
            f"{project} needs a regression set, but has none. Create one on the page of the project, then "
            "evaluate the model again."
        ]
    if evaluation.regression_set_id != newest.pk or sources.regression is None:
        return [
            f"Evaluation {evaluation.pk} was not registered with {newest}, which is the newest one of "
            f"{project}. Evaluate the model again."
        ]
    result = sources.regression
    if result.conclusion is Conclusion.NOT_WORSE:
        return []
    return [
        f"Evaluation {evaluation.pk} does not prove it not worse than {evaluation.baseline} on {newest}: it "
        f"won {result.won}, tied {result.tied} and lost {result.lost} of {result.prompts} prompts, so its "
        f"win rate there may be as low as {percent(result.low)}. It must be above "
        f"{percent(0.5 - result.margin)}."
    ]


def doubts_about_length(evaluation: "Evaluation", controlled: LengthControlled | None) -> list[str]:
    """Return a sentence if the win may come from the length of the answers alone."""
    if controlled is None or not controlled.may_explain_a_win:
        return []
    low, high = map(percent, controlled.interval)
    return [
        f"Evaluation {evaluation.pk} proves a win, but maybe only because of the length of the answers: "
        f"at equal length, the win rate is {percent(controlled.rate)}, between {low} and {high}. "
        "Collect more verdicts, or train the model to write shorter answers."
    ]


def doubts_about_reviewers(evaluation: "Evaluation", sources: Sources) -> list[str]:
    """Return a sentence if it is about reviewers in general and does not prove a gain for them."""
    if evaluation.question != evaluation.Question.LIKE_THEM or sources.people is None:
        return []
    if sources.general is None:
        return [
            f"Evaluation {evaluation.pk} is about reviewers in general, but has verdicts of only one "
            "reviewer. Let others rank its blind comparisons."
        ]
    low, high = sources.general.interval
    if low > 0.5:
        return []
    return [
        f"Evaluation {evaluation.pk} is about reviewers in general. With {sources.general.reviewers} "
        f"reviewers, their win rate is between {percent(low)} and {percent(high)}, which does not "
        "exclude 50%. Let more reviewers rank its blind comparisons."
    ]


def judge_obstacle(evaluation: "Evaluation") -> str:
    """Return the reason why the verdicts of its LLM judge do not count, or "".

    They count if the agreement of the judge with the reviewers was measured and is above chance, and
    if it gave a verdict on nearly all pairs. Costs a query for an LLM judge.
    """
    if not evaluation.judge.startswith(LLM):
        return ""
    agreement = evaluation.judge_agreement()
    if agreement is None or not agreement.is_above_chance:
        why = "was not measured" if agreement is None else "is not proven to be above chance"
        return (
            f"The agreement of the LLM judge of evaluation {evaluation.pk} with the reviewers {why}, so "
            "its verdicts do not count. Measure it under Runs, or ask people."
        )
    figures = evaluation.report.get("llm_judge") or {}
    missing, pairs = figures.get("without_verdict", 0), figures.get("pairs", 0)
    if missing > MOST_WITHOUT_VERDICT * pairs:
        return (
            f"The LLM judge of evaluation {evaluation.pk} gave no verdict on {missing} of {pairs} pairs, "
            "so its verdicts do not count. Choose another judge, or ask people."
        )
    return ""
