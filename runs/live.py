"""The parts of a run's page that change while it runs: progress, time left, curves and messages."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from django.db.models import F, FloatField, Max, Min, Q
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Now
from django.utils import timezone

from formatting import glossary
from formatting.numbers import number, percent
from recipes.curves import curves_of
from runs import kinds
from runs.kinds import CannotRun, RunKind
from runs.models import ENDED, Run, RunEvent, State

MAX_POINTS = 1500
MAX_MESSAGES = 200
MAX_SAMPLES = 12
RATE_POINTS = 30
AGREEMENT = "pairwise_agreement"


@dataclass(frozen=True)
class Progress:
    """The progress of a run. `stage` names its current activity, and is "" while it trains.

    `main` has the figures that matter first, and `more` the others: name, value and a note. The note
    is the step of an older value, or "".
    """

    percent: float | None
    seconds_left: float | None
    main: list[tuple[str, str, str]]
    more: list[tuple[str, str, str]]
    stage: str


def progress(run: Run) -> Progress:
    """Return the progress of a run. Costs at most four queries."""
    events = run.events.filter(event__in=("progress", "stage")).order_by("-number")
    rows = events.annotate(age=Now() - F("recorded_at")).values_list("event", "at", "data", "age")
    latest = list(rows[:RATE_POINTS])
    recent = [(at, data, age) for name, at, data, age in latest if name == "progress"]
    running = run.state == State.RUNNING
    values = latest_values(data for _, data, _ in recent)
    held_out, step = held_out_values(run)
    notes = {name: f"step {step:,}" for name in held_out if name not in values}
    texts = texts_of(run, held_out | values) | constants_of(run) | gpu_texts(run)
    main, more = glossary.in_order(list(texts))
    return Progress(
        percent=100 * run.step / run.total_steps if run.total_steps else None,
        seconds_left=seconds_left(run, recent) if running else None,
        main=[(name, texts[name], notes.get(name, "")) for name in main],
        more=[(name, texts[name], notes.get(name, "")) for name in more],
        stage=stage_of([(name, data) for name, _, data, _ in latest]) if running else "",
    )


def held_out_values(run: Run) -> tuple[dict[str, float], int]:
    """Return the newest main figures on held-out data, which most steps do not have, and their step.

    Costs one query.
    """
    names = glossary.HELD_OUT
    events = run.events.filter(event="progress", data__metrics__has_any_keys=names)
    data = events.order_by("-number").values_list("data", flat=True).first() or {}
    values = {name: value for name, value in curves_of(data).items() if name in names}
    step = data.get("step")
    return values, step if isinstance(step, int) else 0


def texts_of(run: Run, values: dict[str, float]) -> dict[str, str]:
    shares = shares_of(run)
    return {name: format_value(value, share=name in shares) for name, value in values.items()}


def constants_of(run: Run) -> dict[str, str]:
    """Return the figures that do not change during a run: its device and the reviewers' agreement.

    They are in events before the first step. Costs one query.
    """
    rows = run.events.filter(event__in=("device", "data")).order_by("number")
    events = dict(rows.values_list("event", "data"))
    texts = {}
    if device := device_text(events.get("device", {})):
        texts["device"] = device
    agreement = events.get("data", {}).get(AGREEMENT)
    if isinstance(agreement, int | float):
        texts[AGREEMENT] = percent(agreement)
    return texts


def gpu_texts(run: Run) -> dict[str, str]:
    """Return the use and the temperature of the run's GPUs, one value for each of them.

    They are absent without GPUs, and if the driver does not report them.
    """
    units = {"use": ("gpu_use", "%"), "temperature": ("gpu_temperature", " °C")}
    reports = run.gpu_reports()
    texts = {}
    for key, (name, unit) in units.items():
        values = [gpu[key] for gpu in reports if isinstance(gpu.get(key), int)]
        if values:
            texts[name] = ", ".join(map(str, values)) + unit
    return texts


def device_text(device: dict[str, Any]) -> str:
    """Return the content of a device event as text, such as "2 × NVIDIA H200, bfloat16"."""
    count = device.get("count")
    times = f"{count} × " if isinstance(count, int) and count > 1 else ""
    parts = [str(device[name]) for name in ("name", "dtype") if device.get(name)]
    return times + ", ".join(parts) if parts else ""


def stage_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    """Return the current activity, given the progress and stage events, newest first."""
    if not events:
        return "Preparing the data"
    name, data = events[0]
    return str(data.get("text", "")) if name == "stage" else ""


def latest_values(recent: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the newest value of each curve, given the data of progress events, newest first."""
    values: dict[str, float] = {}
    step: Any = None
    for data in recent:
        if values and data.get("step") != step:
            break
        values = {**curves_of(data), **values}
        step = data.get("step")
    return values


def seconds_left(
    run: Run, recent: list[tuple[datetime, dict[str, Any], timedelta]]
) -> float | None:
    """Estimate the seconds left from the last progress events, newest first.

    Each event has its time, data and age. Times are from the clock of the machine that trains, and ages
    from the database's clock. This machine's clock is not used, because it may differ from both.
    """
    steps = [
        (at, float(data["step"]))
        for at, data, _ in recent
        if isinstance(data.get("step"), int | float)
    ]
    # Count the events of this attempt. The newest event before them has a higher step.
    count = 1
    while count < len(steps) and steps[count][1] < steps[count - 1][1]:
        count += 1
    if count < 2:
        return None
    (last_at, last), (first_at, first) = steps[0], steps[count - 1]
    per_step = (last_at - first_at).total_seconds() / (last - first)
    since = recent[0][2].total_seconds()
    return max(0.0, (run.total_steps - last) * per_step - since)


def points(run: Run, *, after: int = 0) -> list[dict[str, Any]]:
    """Return the points of the curves after event number `after`, thinned out to about MAX_POINTS."""
    new = run.events.filter(event="progress", number__gt=after)
    span = new.aggregate(first=Min("number"), last=Max("number"))
    if span["last"] is None:
        return []
    stride = ceil((span["last"] - span["first"] + 1) / MAX_POINTS)
    if stride > 1:
        thinned = Q(offset=0) | Q(number=span["last"])
        new = new.annotate(offset=F("number") % stride).filter(thinned)
    rows = new.order_by("number").values_list("number", "data")
    return [
        {"number": number, "step": data["step"], "values": curves_of(data)}
        for number, data in rows
        if isinstance(data.get("step"), int | float)
    ]


def messages(run: Run) -> list[RunEvent]:
    """Return the newest messages of a run, the oldest of them first."""
    newest = run.events.filter(event="message").order_by("-number")[:MAX_MESSAGES]
    return list(newest)[::-1]


@dataclass(frozen=True)
class Answer:
    """The answer to a sample prompt after a step of training. `truncated` means that it was cut off."""

    step: int
    text: str
    truncated: bool


@dataclass(frozen=True)
class Samples:
    """The answers to the sample prompts: each prompt with its answers, the newest first.

    `number` is the number of the newest event, 0 without answers.
    """

    number: int
    prompts: list[tuple[str, list[Answer]]]


def samples(run: Run, *, after: int = 0) -> Samples | None:
    """Return the newest answers to the sample prompts, or None if there are none after an event.

    A resumed run repeats a step; the later answers count.
    """
    rows = run.events.filter(event="samples").order_by("-number").values_list("number", "data")
    newest = list(rows[:MAX_SAMPLES])
    if not newest or newest[0][0] <= after:
        return None
    answers: dict[str, dict[int, Answer]] = {}
    texts: dict[str, str] = {}
    for _, data in newest:
        step, rows_of_step = data.get("step"), data.get("answers")
        if not isinstance(step, int) or not isinstance(rows_of_step, list):
            continue
        for row in filter(lambda row: isinstance(row, dict), rows_of_step):
            name = str(row.get("prompt_id", ""))
            texts.setdefault(name, str(row.get("prompt", "")))
            answer = Answer(step, str(row.get("answer", "")), row.get("truncated") is True)
            answers.setdefault(name, {}).setdefault(step, answer)
    prompts = [
        (text, sorted(answers[name].values(), key=lambda answer: -answer.step))
        for name, text in texts.items()
    ]
    return Samples(newest[0][0], prompts)


def last_number(run: Run) -> int:
    return run.events.aggregate(last=Max("number"))["last"] or 0


def seconds_taken(run: Run) -> float | None:
    if run.started_at is None:
        return None
    end = run.finished_at if run.state in ENDED and run.finished_at else timezone.now()
    return max(0.0, (end - run.started_at).total_seconds())


def peak_memory_mb(run: Run) -> float | None:
    """Return the highest memory that the run has reported, in MiB, or None if it reported none."""
    memory = Cast(KeyTextTransform("memory_mb", "data"), FloatField())
    return run.events.filter(event="progress").aggregate(peak=Max(memory))["peak"]


def kind_of(run: Run) -> RunKind | None:
    """Return the run's kind, or None if its app is no longer installed."""
    try:
        return kinds.get(run.kind)
    except CannotRun:
        return None


def shares_of(run: Run) -> frozenset[str]:
    """Return which of the run's metrics and results are shares."""
    kind = kind_of(run)
    return kind.shares if kind else frozenset()


def format_value(value: float, *, share: bool) -> str:
    """Format a value of a curve or a result. A share becomes a percentage."""
    return percent(value) if share else number(value)


def figure(run: Run) -> str:
    kind = kind_of(run)
    if kind is None or run.state != State.SUCCEEDED:
        return ""
    try:
        return kind.figure(run.result)
    except (KeyError, TypeError, ValueError):
        return ""


def links(run: Run) -> list[tuple[str, str]]:
    """Return (label, URL) for the pages with the output of a successful run."""
    kind = kind_of(run)
    return kind.links(run) if kind and run.state == State.SUCCEEDED else []
