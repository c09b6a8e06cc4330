"""Evidence as JSON, and its recomputation from the verdicts of a certificate. Needs Python and numpy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.certificate.conditions import (
    length_problems,
    length_sentence,
    may_be_length,
    regression_problems,
)
from finetune.certificate.verdicts import SOURCES, counted, is_close
from finetune.statistics.evidence import (
    Conclusion,
    Evidence,
    JudgedPrompt,
    evidence_of,
    excess_of_prompts,
    judge_value,
    share_of_alpha,
    units_of,
)
from finetune.statistics.reviewer_effects import GeneralRate, general_rate
from formatting.numbers import percent, percent_range

PATH = ("unit", "log_better", "log_not_worse", "log_worse", "low", "high")
"""The columns of a path of evidence, which has a row per prompt."""
LIKE_THEM = "like them"
"""The question of an evaluation about reviewers in general."""
SAME_WEIGHTS, BASE, EVALUATIONS = "same weights", "base model", "evaluations"
"""The possible bases of a decision."""


class Malformed(ValueError):  # noqa: N818
    """A section has a value of the wrong kind. The message is a sentence."""


def as_json(evidence: Evidence | None) -> dict[str, Any] | None:
    """Return the evidence with its path, or None without evidence."""
    if evidence is None:
        return None
    columns = (
        evidence.units, evidence.log_better, evidence.log_not_worse, evidence.log_worse,
        evidence.low, evidence.high,
    )  # fmt: skip
    return {
        "conclusion": evidence.conclusion.value,
        "decided_after": evidence.decided_after,
        "alpha": evidence.alpha,
        "margin": evidence.margin,
        "win_rate": evidence.mean,
        "interval": list(evidence.interval),
        "excess": None if evidence.excess is None else [float(d) for d in evidence.excess],
        "columns": list(PATH),
        "path": [[float(value) for value in row] for row in zip(*columns, strict=True)],
    }


def recomputed(
    evaluation: dict[str, Any], source: str, *, simulated: bool
) -> dict[str, Any] | None:
    """Return the evidence of one source of verdicts, as `as_json` returns it."""
    registration, verdicts = evaluation["registration"], evaluation[source]["verdicts"]
    alpha, attempt = registration["alpha"], registration["attempt"]
    if alpha is None or attempt is None:
        return None
    if source == "people":
        used = counted(evaluation, simulated=simulated)
        rows = [(row["prompt"], row["verdict"]) for row in used]
        if not rows:
            return None
    elif not registration["judge"]:
        return None
    else:
        order = {prompt: index for index, prompt in enumerate(registration["prompts"])}
        rows = [(row["prompt"], row["verdict"]) for row in verdicts if row["verdict"] is not None]
        rows.sort(key=lambda row: order.get(row[0], math.inf))
    excess = excess_of(evaluation, rows) if source == "people" else None
    return as_json(
        evidence_of(
            units_of(rows),
            alpha=share_of_alpha(alpha, attempt),
            margin=registration["margin"],
            excess=excess,
        )
    )


def excess_of(evaluation: dict[str, Any], rows: Sequence[tuple[int, float]]) -> np.ndarray | None:
    """Return the excess of the judge's value on each prompt of the rows, from the judge's verdicts.

    It is None if the judge is not a control variate.
    """
    registration = evaluation["registration"]
    if not registration.get("judge_controls"):
        return None
    graded = registration["reward_model_id"] is not None
    excess = excess_of_prompts(
        JudgedPrompt(
            prompt=row["prompt"],
            block=row["block"],
            asked=row["asked"],
            value=judge_value(
                0.5 if row["verdict"] is None else row["verdict"],
                (row["baseline_score"], row["candidate_score"]),
                graded=graded,
            ),
        )
        for row in evaluation["judge"]["verdicts"]
        if row.get("block") is not None
    )
    if excess is None:
        return None
    return np.array([excess[prompt] for prompt in dict.fromkeys(p for p, _ in rows)], dtype=float)


def general_of(evaluation: dict[str, Any], *, simulated: bool) -> dict[str, Any] | None:
    """Return the win rate over reviewers in general, if the evaluation is about them."""
    registration = evaluation["registration"]
    if registration["question"] != LIKE_THEM:
        return None
    rows = counted(evaluation, simulated=simulated)
    return as_dict(general_rate((row["reviewer"], row["prompt"], row["verdict"]) for row in rows))


def as_dict(rate: GeneralRate | None) -> dict[str, Any] | None:
    """Return the win rate over reviewers in general as JSON."""
    if rate is None:
        return None
    return {"reviewers": rate.reviewers, "mean": rate.mean, "interval": list(rate.interval)}


def problems_of(content: dict[str, Any]) -> list[str]:
    """Return a sentence for each value that does not follow from the verdicts of the certificate.

    Raises Malformed for a value of the wrong kind.
    """
    try:
        return [
            *(
                problem
                for each in content["evaluations"]
                for problem in _of_evaluation(each, content)
            ),
            *_of_decision(content),
        ]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, IndexError) as error:
        raise Malformed(
            f"A section has a missing value or a value of the wrong kind ({type(error).__name__}: "
            f"{error})."
        ) from None


def _of_evaluation(evaluation: dict[str, Any], content: dict[str, Any]) -> list[str]:
    number, registration = evaluation["evaluation"], evaluation["registration"]
    prompts, problems = set(registration["prompts"]), []
    if unhashed := prompts - {int(pk) for pk in content["prompts"]}:
        problems.append(f"Evaluation {number}: prompt {min(unhashed)} has no hash.")
    for source, identity in (("people", "reviewer"), ("judge", "sample")):
        verdicts = evaluation[source]["verdicts"]
        keys = [(row["prompt"], row[identity]) for row in verdicts]
        if len(set(keys)) < len(keys):
            problems.append(f"Evaluation {number}: a {identity} has two verdicts on one prompt.")
        allowed = {0.0, 0.5, 1.0} if source == "people" else {0.0, 0.5, 1.0, None}
        if values := {row["verdict"] for row in verdicts} - allowed:
            problems.append(f"Evaluation {number}: {min(values)} is not a verdict.")
        if registration["alpha"] and (others := {row["prompt"] for row in verdicts} - prompts):
            problems.append(f"Evaluation {number}: prompt {min(others)} is not registered.")
        fresh = recomputed(evaluation, source, simulated=content["project"]["simulated"])
        difference = _difference(evaluation[source]["evidence"], fresh)
        if difference:
            problems.append(f"Evaluation {number}, {source}: {difference}")
    general = general_of(evaluation, simulated=content["project"]["simulated"])
    written = evaluation["people"]["general"]
    differs = (general is None) != (written is None)
    if general is not None and written is not None:
        differs = any(not is_close(written[name], general[name]) for name in general)
    if differs:
        problems.append(
            f"Evaluation {number}: the win rate of reviewers in general is {written}; recomputed: "
            f"{general}."
        )
    return [
        *problems,
        *length_problems(evaluation, simulated=content["project"]["simulated"]),
        *regression_problems(evaluation, content["prompts"]),
    ]


def _difference(written: dict[str, Any] | None, fresh: dict[str, Any] | None) -> str:
    """Return the first difference between the written and the recomputed evidence as a sentence."""
    if written is None or fresh is None:
        return "" if written is fresh else "the verdicts and the evidence do not belong together."
    if set(written) != set(fresh):
        return "the evidence has other values than those that follow from the verdicts."
    for name in ("columns", "alpha", "margin"):
        if not is_close(written[name], fresh[name]):
            return f"{name} is {written[name]}; recomputed: {fresh[name]}."
    if len(written["path"]) != len(fresh["path"]):
        return f"the path has {len(written['path'])} prompts; recomputed: {len(fresh['path'])}."
    for index, (row, expected) in enumerate(zip(written["path"], fresh["path"], strict=True), 1):
        if len(row) != len(expected):
            return f"row {index} of the path has {len(row)} values instead of {len(expected)}."
        for name, value, other in zip(PATH, row, expected, strict=True):
            if not is_close(value, other):
                return f"after prompt {index}, {name} is {value}; recomputed: {other}."
    for name in ("conclusion", "decided_after", "win_rate", "interval", "excess"):
        if not is_close(written[name], fresh[name]):
            return f"{name} is {written[name]}; recomputed: {fresh[name]}."
    return ""


def _of_decision(content: dict[str, Any]) -> list[str]:
    """Return the contradictions between the conclusions and the decision to promote."""
    promotion, problems = content["promotion"], []
    if promotion["doubts"] and not promotion["reason"].strip():
        problems.append("The promotion has doubts, but no reason overrides them.")
    if promotion["basis"] not in (EVALUATIONS, BASE, SAME_WEIGHTS):
        problems.append(f"{promotion['basis']!r} is not a basis of a promotion.")
    if promotion["basis"] == BASE and content["candidate"]["kind"] != BASE:
        problems.append("The candidate is not a base model, so evaluations must decide.")
    if promotion["basis"] != EVALUATIONS or promotion["doubts"]:
        return problems
    better, worse = proofs(
        content["evaluations"], promotion["policy"], regression_set=promotion["regression_set"]
    )
    if not better:
        problems.append("No evaluation that counts proves the candidate better.")
    if worse:
        problems.append("An evaluation that counts proves the candidate worse.")
    return problems


def proofs(
    evaluations: Sequence[dict[str, Any]], policy: str, *, regression_set: str | None
) -> tuple[bool, bool]:
    """Return whether the evaluations that count prove the candidate better, and worse.

    Better: see `sources_of_win`. The judge, and the regression set, can prove it worse under any policy.
    """
    better = worse = False
    for evaluation in evaluations:
        if not evaluation["counts"]:
            continue
        better |= bool(sources_of_win(evaluation, policy, regression_set=regression_set))
        worse |= Conclusion.WORSE in _conclusions(evaluation).values()
        on_set = evaluation["regression"]
        worse |= on_set is not None and on_set["result"]["conclusion"] == Conclusion.WORSE
    return better, worse


def sources_of_win(
    evaluation: dict[str, Any], policy: str, *, regression_set: str | None
) -> list[str]:
    """Return the sources of verdicts by which an evaluation that counts proves the candidate better.

    A win that may come from length alone does not count. The judge can prove it better only under the
    policy "judge". An evaluation about reviewers in general also needs their interval above 50%. With
    `regression_set`, the SHA-256 of the set that the project requires, it must be proven not worse on
    this set.
    """
    conclusions = _conclusions(evaluation)
    if evaluation["registration"]["question"] == LIKE_THEM and "people" in conclusions:
        general = evaluation["people"]["general"]
        if general is None or not general["interval"][0] > 0.5:
            return []
    if regression_set is not None:
        on_set = evaluation["regression"]
        passed = on_set is not None and on_set["sha256"] == regression_set
        if not passed or on_set["result"]["conclusion"] != Conclusion.NOT_WORSE:
            return []
    return [
        source
        for source in (SOURCES if policy == "judge" else ("people",))
        if conclusions.get(source) == Conclusion.BETTER
        and not may_be_length(evaluation["at_equal_length"][source])
    ]


def _conclusions(evaluation: dict[str, Any]) -> dict[str, str]:
    """Return the conclusion of each source that has evidence."""
    return {
        source: evaluation[source]["evidence"]["conclusion"]
        for source in SOURCES
        if evaluation[source]["evidence"]
    }


def sentences(content: dict[str, Any]) -> list[str]:
    """Return the conclusions of the certificate as sentences, for the command."""
    lines = []
    for evaluation in content["evaluations"]:
        for source in SOURCES:
            evidence = evaluation[source]["evidence"]
            if evidence is None:
                continue
            prompts = len(evidence["path"])
            decided = evidence["decided_after"]
            after = (
                f" after {decided} of {prompts} prompts" if decided else f" after {prompts} prompts"
            )
            lines.append(
                f"Evaluation {evaluation['evaluation']} against {evaluation['baseline']['name']}, "
                f"{source}: {evidence['conclusion']}{after}, win rate "
                f"{percent(evidence['win_rate'])}, interval {percent_range(evidence['interval'])}."
                + length_sentence(evaluation["at_equal_length"][source])
            )
        if on_set := evaluation["regression"]:
            result = on_set["result"]
            lines.append(
                f"Evaluation {evaluation['evaluation']}, regression set {on_set['number']}: "
                f"{result['conclusion']}, {result['won']} won, {result['tied']} tied and "
                f"{result['lost']} lost, win rate at least {percent(result['low'])}."
            )
    promotion = content["promotion"]
    lines += [f"Doubt: {doubt}" for doubt in promotion["doubts"]]
    if promotion["doubts"]:
        lines.append(f"Promoted anyway. Reason: {promotion['reason']}")
    elif promotion["basis"] == EVALUATIONS:
        lines.append(f'The policy "{promotion["policy"]}" is met.')
    else:
        lines.append(f"No evaluation was needed: {promotion['basis']}.")
    return lines
