"""The conditions of a promotion besides the evidence: equal length, and the regression set.

Each is recomputed from the verdicts of a certificate. Needs Python and numpy.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from finetune.certificate.document import digest
from finetune.certificate.verdicts import SOURCES, counted, is_close
from finetune.statistics.evidence import share_of_alpha
from finetune.statistics.expectations import value_of
from finetune.statistics.length_control import Item, LengthControlled, controlled_by_source
from finetune.statistics.regression import RegressionResult, regression_result, values_of
from formatting.numbers import percent, percent_range


def length_as_json(controlled: LengthControlled | None) -> dict[str, Any] | None:
    """Return the length-controlled win rate as JSON."""
    if controlled is None:
        return None
    return {**asdict(controlled), "interval": list(controlled.interval)}


def at_equal_length(evaluation: dict[str, Any], *, simulated: bool) -> dict[str, Any]:
    """Return the length-controlled win rates of each source, from the verdicts and the lengths."""
    verdicts = {
        (row["prompt"], row["sample"]): row["verdict"] for row in evaluation["judge"]["verdicts"]
    }
    items: list[Item] = [
        (prompt, sample, verdicts.get((prompt, sample)), candidate, baseline)
        for prompt, sample, candidate, baseline in evaluation["lengths"]
    ]
    rows = counted(evaluation, simulated=simulated)
    controlled = controlled_by_source(((row["prompt"], row["verdict"]) for row in rows), items)
    return {s: length_as_json(each) for s, each in zip(SOURCES, controlled, strict=True)}


def length_problems(evaluation: dict[str, Any], *, simulated: bool) -> list[str]:
    """Return a sentence for each length or length-controlled win rate that does not follow."""
    number = evaluation["evaluation"]
    lengths = {(row[0], row[1]) for row in evaluation["lengths"]}
    judged = {(row["prompt"], row["sample"]) for row in evaluation["judge"]["verdicts"]}
    compared = {(row["prompt"], 0) for row in evaluation["people"]["verdicts"]}
    if len(lengths) < len(evaluation["lengths"]):
        return [f"Evaluation {number}: the lengths of an answer occur twice."]
    if missing := (judged | compared) - lengths:
        return [
            f"Evaluation {number}: the lengths of the answers to prompt {min(missing)[0]} are missing."
        ]
    fresh, problems = at_equal_length(evaluation, simulated=simulated), []
    for source in SOURCES:
        written, expected = evaluation["at_equal_length"][source], fresh[source]
        same = written is expected is None or (
            written is not None
            and expected is not None
            and all(is_close(written[name], expected[name]) for name in expected)
        )
        if not same:
            problems.append(
                f"Evaluation {number}, {source}: the win rate at equal length is {written}; recomputed: "
                f"{expected}."
            )
    return problems


def regression_as_json(result: RegressionResult) -> dict[str, Any]:
    return {**asdict(result), "conclusion": result.conclusion.value}


def set_digest(cases: Sequence[dict[str, Any]], margin: float) -> str:
    """Return the SHA-256 of a regression set, whose cases have the hashes of their properties."""
    return digest({"cases": list(cases), "margin": margin})


def regression_problems(evaluation: dict[str, Any], hashes: dict[str, Any]) -> list[str]:
    """Return a sentence for each value about the regression set that does not follow from its verdicts.

    `hashes` are those of the prompts of the certificate.
    """
    registration, written = evaluation["registration"], evaluation["regression"]
    number = evaluation["evaluation"]
    if (registration["regression_set_id"] is None) != (written is None):
        return [f"Evaluation {number}: its regression set does not belong to its registration."]
    if written is None:
        return []
    problems = []
    if set_digest(written["cases"], written["margin"]) != written["sha256"]:
        problems.append(f"Evaluation {number}: the regression set does not match its SHA-256.")
    expect = {case["prompt"]: case["expect_sha256"] for case in written["cases"]}
    for case in written["cases"]:
        if hashes.get(str(case["prompt"])) != case["prompt_sha256"]:
            problems.append(
                f"Evaluation {number}: prompt {case['prompt']} of the regression set has another hash."
            )
    keys = [(row["prompt"], row["sample"]) for row in written["verdicts"]]
    if len(set(keys)) < len(keys):
        problems.append(f"Evaluation {number}: an answer of the regression set has two verdicts.")
    for row in written["verdicts"]:
        if row["prompt"] not in expect:
            return [f"Evaluation {number}: prompt {row['prompt']} is not in the regression set."]
        passed = row["candidate_passed"], row["baseline_passed"]
        if row["verdict"] not in (0.0, 0.5, 1.0, None) or (
            expect[row["prompt"]] and row["verdict"] != value_of(*passed)
        ):
            problems.append(
                f"Evaluation {number}: {row['verdict']} is not the verdict on prompt {row['prompt']} "
                "of the regression set."
            )
    rows = [(row["prompt"], row["verdict"]) for row in written["verdicts"]]
    fresh = regression_as_json(
        regression_result(
            values_of(list(expect), rows),
            alpha=share_of_alpha(registration["alpha"], registration["attempt"]),
            margin=written["margin"],
        )
    )
    for name in fresh:
        if not is_close(written["result"][name], fresh[name]):
            problems.append(
                f"Evaluation {number}, regression set: {name} is {written['result'][name]}; recomputed: "
                f"{fresh[name]}."
            )
    return problems


def length_sentence(controlled: dict[str, Any] | None) -> str:
    """Return the win rate at equal length as a sentence, with a space before it; "" for None."""
    if controlled is None:
        return ""
    rate, interval = percent(controlled["rate"]), percent_range(controlled["interval"])
    return f" At equal length: {rate}, interval {interval}."


def may_be_length(controlled: dict[str, Any] | None) -> bool:
    """Return whether a win may come from the length of the answers alone."""
    return controlled is not None and LengthControlled(**controlled).may_explain_a_win
