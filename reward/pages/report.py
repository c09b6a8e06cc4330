"""What the page of a reward model makes of its report: rows, tables, and texts made safe."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.safestring import SafeString

from formatting.numbers import percent, percent_range
from labeling.core.text import render
from labeling.models import GuidelineVersion

KINDS = {
    "guideline_version": "Guideline version",
    "reviewer": "Reviewer",
    "criterion": "Rated by criterion",
    "response_model": "Model that wrote a response",
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
    who: str
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


def slice_tables(report: Mapping[str, Any]) -> list[SliceTable]:
    """One for each kind of slice that there is more than one of, and any criterion. Costs a query."""
    found = report.get("slices") or {}
    versions = _version_names(found.get("guideline_version") or [])
    tables = []
    for kind, title in KINDS.items():
        rows = [
            _slice_row(row, versions if kind == "guideline_version" else {})
            for row in found.get(kind) or []
        ]
        if len(rows) > 1 or (rows and kind == "criterion"):
            tables.append(SliceTable(title, rows, any(row.ceiling for row in rows)))
    return tables


def _version_names(rows: list[dict[str, Any]]) -> dict[Any, str]:
    ids = [row["name"] for row in rows if row["name"] is not None]
    names: dict[Any, str] = {None: "Under no guideline"}
    if ids:
        found = GuidelineVersion.objects.select_related("guideline").in_bulk(ids)
        names.update({pk: str(version) for pk, version in found.items()})
    return names


def _slice_row(row: Mapping[str, Any], names: Mapping[Any, str]) -> SliceRow:
    accuracy, ceiling = row["accuracy"], row.get("reviewer_agreement") or {}
    return SliceRow(
        name=names.get(row["name"]) or str(row["name"] or "not named"),
        accuracy=percent(accuracy["value"]),
        interval=percent_range(accuracy["interval"]),
        ceiling="" if ceiling.get("value") is None else percent(ceiling["value"]),
        pairs=accuracy["pairs"],
        prompts=accuracy["prompts"],
    )


def temperature_line(report: Mapping[str, Any]) -> dict[str, str] | None:
    """What dividing the scores by the temperature is worth on prompts it was not fitted on."""
    found = report.get("temperature") or {}
    if found.get("value") is None:
        return None
    before, after = found["before"]["ece"], found["after"]["ece"]
    return {
        "value": f"{found['value']:.2f}",
        "before": "–" if before is None else f"{before:.3f}",
        "after": "–" if after is None else f"{after:.3f}",
    }


def label_mistakes_line(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Without its rows; None in reports from before there were any."""
    found = report.get("label_mistakes")
    if not found:
        return None
    line = {key: found[key] for key in ("checked", "rankings", "likely", "reason")}
    return {**line, "sure_percent": percent(found.get("sure") or 0, 0)}


LENGTHS = {
    "matched": "about as long (within 10%)",
    "longer_won": "the longer one won",
    "shorter_won": "the shorter one won",
    "contested": "reviewers preferred either",
}


def length_rows(report: Mapping[str, Any]) -> list[SliceRow]:
    found = report.get("length_slices") or {}
    return [
        _slice_row({"name": said, "accuracy": found[name]}, {})
        for name, said in LENGTHS.items()
        if name in found and (name != "contested" or found[name]["pairs"])
    ]


def mistakes(report: Mapping[str, Any]) -> list[Mistake]:
    """The worst first. Rendering bounds each text; there are ten at most."""
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


def _text(who: str, found: Mapping[str, Any]) -> MistakeText:
    return MistakeText(who, render(found["text"]), found["left_out"])
