"""The rows and tables on the page of a reward model, made from its report. Texts are rendered safely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString

from formatting.numbers import percent, percent_range
from labeling.core.text import render
from labeling.models import GuidelineVersion
from reward.evaluation.schema import Excerpt, RewardReport, Share, Slice

KINDS = {
    "guideline_version": "Guideline version",
    "reviewer": "Reviewer",
    "criterion": "Rated by criterion",
    "response_model": "Model that wrote the response",
}


@dataclass(frozen=True)
class SliceRow:
    name: str
    accuracy: str
    interval: str
    ceiling: str
    pairs: int
    prompts: int


@dataclass(frozen=True)
class SliceTable:
    title: str
    rows: list[SliceRow]
    has_ceiling: bool


@dataclass(frozen=True)
class MistakeText:
    author: str
    html: SafeString
    left_out: int


@dataclass(frozen=True)
class Mistake:
    group_id: str
    prompt: list[MistakeText]
    preferred: MistakeText
    scored_higher: MistakeText
    gap: float
    score_preferred: float
    score_other: float
    votes_for: float
    votes_against: float


def slice_tables(report: RewardReport) -> list[SliceTable]:
    """Return a table for each kind that has several slices, and for rated criteria.

    This takes one query.
    """
    slices = report.get("slices")
    if not slices:
        return []
    versions = slices.get("guideline_version") or []
    tables = [
        _slice_table("guideline_version", versions, _version_names(versions)),
        _slice_table("reviewer", slices.get("reviewer") or []),
        _slice_table("criterion", slices.get("criterion") or []),
        _slice_table("response_model", slices.get("response_model") or []),
    ]
    return [table for table in tables if table is not None]


def _slice_table(
    kind: str, slices: Sequence[Slice], names: Mapping[Any, str] | None = None
) -> SliceTable | None:
    """Return the table, or None if there is nothing to compare.

    That is the case without slices, and with a single slice that is not a criterion.
    """
    if not slices or (len(slices) == 1 and kind != "criterion"):
        return None
    rows = [
        _slice_row(
            (names or {}).get(row["name"]) or str(row["name"] or "not named"),
            row["accuracy"],
            row.get("reviewer_agreement"),
        )
        for row in slices
    ]
    return SliceTable(KINDS[kind], rows, any(row.ceiling for row in rows))


def _version_names(slices: Sequence[Slice]) -> dict[Any, str]:
    ids: list[Any] = [row["name"] for row in slices if row["name"] is not None]
    names: dict[Any, str] = {None: "Under no guideline"}
    if ids:
        versions = GuidelineVersion.objects.select_related("guideline").in_bulk(ids)
        names.update({pk: str(version) for pk, version in versions.items()})
    return names


def _slice_row(name: str, accuracy: Share, agreement: Share | None = None) -> SliceRow:
    ceiling = agreement and agreement["value"]
    return SliceRow(
        name=name,
        accuracy=percent(accuracy["value"]),
        interval=percent_range(accuracy["interval"]),
        ceiling="" if ceiling is None else percent(ceiling),
        pairs=accuracy["pairs"],
        prompts=accuracy["prompts"],
    )


def temperature_line(report: RewardReport) -> dict[str, str] | None:
    """Return the temperature, and the calibration error before and after, as text."""
    temperature = report.get("temperature")
    if not temperature or temperature["value"] is None:
        return None
    errors = {}
    for name, loss in (("before", temperature["before"]), ("after", temperature["after"])):
        error = loss and loss["ece"]
        errors[name] = "–" if error is None else f"{error:.3f}"
    return {"value": f"{temperature['value']:.2f}", **errors}


def label_mistakes_line(report: RewardReport) -> dict[str, Any] | None:
    """Return the summary of the label mistakes, or None for older reports."""
    mistakes = report.get("label_mistakes")
    if not mistakes:
        return None
    return {
        "checked": mistakes["checked"],
        "rankings": mistakes["rankings"],
        "likely": mistakes["likely"],
        "reason": mistakes["reason"],
        "sure_percent": percent(mistakes.get("sure") or 0, 0),
    }


def length_rows(report: RewardReport) -> list[SliceRow]:
    """Return the rows of the table of length slices, without an empty row of contested pairs."""
    slices = report.get("length_slices")
    if not slices:
        return []
    contested = slices.get("contested")
    rows = [
        ("About equally long (within 10%)", slices.get("matched")),
        ("Longer response won", slices.get("longer_won")),
        ("Shorter response won", slices.get("shorter_won")),
        ("Reviewers disagreed", contested if contested and contested["pairs"] else None),
    ]
    return [_slice_row(name, accuracy) for name, accuracy in rows if accuracy]


def mistakes(report: RewardReport) -> list[Mistake]:
    """Return the worst mistakes of the model, at most ten, with the largest gap first."""
    return [
        Mistake(
            group_id=row["group_id"],
            prompt=[_text(turn["role"], turn) for turn in row["prompt"]],
            preferred=_text(row["preferred"]["model"], row["preferred"]),
            scored_higher=_text(row["scored_higher"]["model"], row["scored_higher"]),
            gap=row["gap"],
            score_preferred=row["preferred"]["score"],
            score_other=row["scored_higher"]["score"],
            votes_for=row["evidence"][0],
            votes_against=row["evidence"][1],
        )
        for row in report.get("mistakes") or []
    ]


def _text(author: str, excerpt: Excerpt) -> MistakeText:
    return MistakeText(author, render(excerpt["text"]), excerpt["left_out"])
