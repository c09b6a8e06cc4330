"""Forecasts of memory, time and cost before a run is queued, and changes with which a run would fit.

A worker measures what a forecast needs, with `python -m recipes.preflight`. The result is a row of
Forecast, which the launch page polls. It depends on the kind, the inputs, and the settings that
determine shapes, so that runs with the same ones share it. Epochs and similar settings only change
how the forecast is computed from the measurement.

A forecast is for one GPU of the machine of the worker that measured it.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import current_app
from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now
from kombu.exceptions import OperationalError as BrokerError

from recipes.preflight import forecast as forecasting
from recipes.preflight.forecast import MEASUREMENT, OUT_OF_MEMORY, Measurement
from recipes.settings import ConfigError
from runs import kinds
from runs.kinds import CannotRun, RunKind
from runs.messages import QUEUE
from runs.models import Forecast, Run
from runs.supervision import workspace
from runs.supervision.child import environment
from runs.supervision.gpus import GpuLease, lease_gpus

logger = logging.getLogger("tiebreak.runs")

MEASURE_SECONDS = 900
"""Seconds after which a measurement is ended. A worker that is silent for longer has died."""
LOCK_SECONDS = 0.2
RESEND_SECONDS = 30
"""Seconds after which a message about a queued measurement is sent again, if the page still asks."""


@dataclass(frozen=True)
class Change:
    """A change of one or two settings with which a run may fit.

    `values` are the new values by setting, and `labels` those values as text by the setting's label.
    """

    values: dict[str, Any]
    labels: dict[str, str]
    forecast: Forecast
    outcome: forecasting.Forecast | None

    @property
    def json(self) -> str:
        """Return the new values as JSON, for the button that applies them."""
        return json.dumps(self.values)


# --- rows -----------------------------------------------------------------------------------------


def key_of(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Return the key of the measurement for a run with this complete config."""
    shapes = {
        name: value for name, value in config.items() if name not in forecasting.WITHOUT_EFFECT
    }
    text = json.dumps([kind, shapes, inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def existing(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> Forecast | None:
    return Forecast.objects.filter(key=key_of(kind, config, inputs)).first()


def request(
    kind: str, config: Mapping[str, Any], inputs: Mapping[str, Any], *, send: bool = True
) -> Forecast:
    """Return the row for a run with this complete config, which is created and queued if it is new.

    If its message seems lost, or its worker has died, it is queued again. Costs one query if the row
    is finished, otherwise up to four.
    """
    key = key_of(kind, config, inputs)
    row, _ = Forecast.objects.get_or_create(
        key=key, defaults={"kind": kind, "config": dict(config), "inputs": dict(inputs)}
    )
    State = Forecast.State  # noqa: N806 - a class
    if row.state in (State.QUEUED, State.MEASURING):
        died = Q(started_at__lt=Now() - timedelta(seconds=2 * MEASURE_SECONDS))
        rows = Forecast.objects.filter(pk=row.pk)
        rows.filter(died, state=State.MEASURING).update(state=State.QUEUED, message_sent_at=None)
        if send:
            _notify(row.pk)
        row.refresh_from_db()
    return row


def repeat(row: Forecast, *, send: bool = True) -> None:
    """Queue a measurement that failed again."""
    Forecast.objects.filter(
        pk=row.pk, state__in=(Forecast.State.FAILED, Forecast.State.TOO_LARGE)
    ).update(state=Forecast.State.QUEUED, error="", message_sent_at=None)
    if send:
        _notify(row.pk)


def _notify(pk: int) -> None:
    """Send the id to a worker, unless that was done a moment ago."""
    recently = Now() - timedelta(seconds=RESEND_SECONDS)
    due = Q(message_sent_at=None) | Q(message_sent_at__lt=recently)
    rows = Forecast.objects.filter(due, pk=pk, state=Forecast.State.QUEUED)
    if not rows.update(message_sent_at=Now()):
        return
    try:
        current_app.send_task("runs.tasks.measure_forecast", args=[pk], queue=QUEUE, retry=False)
    except (BrokerError, OSError) as error:
        logger.warning("Forecast %s waits: the broker does not answer (%s).", pk, error)


def outcome(row: Forecast | None, config: Mapping[str, Any]) -> forecasting.Forecast | None:
    """Return the forecast of a run with these settings, or None if nothing was measured."""
    if row is None or row.state != Forecast.State.DONE or row.measurement is None:
        return None
    return forecasting.forecast(Measurement.from_dict(row.measurement), row.kind, config)


def for_run(
    kind: str, config: Mapping[str, Any], inputs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the forecast to keep with a run, or None if there is none."""
    predicted = outcome(existing(kind, config, inputs), config)
    if predicted is None:
        return None
    values = {name: asdict(predicted)[name] for name in ("memory_mb", "seconds", "capacity_mb")}
    return {**values, "device": predicted.device, "cost": cost_text(predicted.seconds)}


def cost_text(seconds: float) -> str:
    """Return the cost as text, such as "1.25 EUR", or "" without a price per hour."""
    if settings.PRICE_PER_HOUR is None:
        return ""
    price, currency = settings.PRICE_PER_HOUR
    return f"{price * seconds / 3600:,.2f} {currency}".strip()


# --- measuring ------------------------------------------------------------------------------------


def measure(pk: int) -> None:
    """Measure a queued forecast, and store the result. Does nothing if another worker has it."""
    State = Forecast.State  # noqa: N806 - a class
    claimed = Forecast.objects.filter(pk=pk, state=State.QUEUED)
    if not claimed.update(state=State.MEASURING, started_at=Now(), error=""):
        return
    row = Forecast.objects.get(pk=pk)
    try:
        changes = _measured(row)
    except CannotRun as problem:
        changes = {"state": State.FAILED, "error": str(problem)}
    except BaseException:
        Forecast.objects.filter(pk=pk, state=State.MEASURING).update(
            state=State.FAILED, error="The measurement was interrupted.", finished_at=Now()
        )
        raise
    Forecast.objects.filter(pk=pk, state=State.MEASURING).update(finished_at=Now(), **changes)


def measured_now(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> Forecast:
    """Return the row for a run, which is measured in this process unless that was done before."""
    row = request(kind, config, inputs, send=False)
    if row.state in (Forecast.State.FAILED, Forecast.State.TOO_LARGE):
        repeat(row, send=False)
    measure(row.pk)
    row.refresh_from_db()
    return row


def _measured(row: Forecast) -> dict[str, Any]:
    """Return the new values of the row's fields. Raises CannotRun."""
    kind = kinds.get(row.kind)
    folder = settings.VAR_DIR / "preflight" / str(row.pk)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run = Run(kind=row.kind, config=row.config, inputs=row.inputs)
        workspace.write_input(run, kind, folder)
        deadline = time.monotonic() + MEASURE_SECONDS
        waiting = _waiting(deadline)
        with lease_gpus(replace(kind, multi_gpu=False), waiting) as lease, _alone(lease, waiting):
            return _rehearse(kind, folder, lease.names)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(lease: GpuLease, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one measurement at a time use the processors of this machine, unless it has a GPU of its own.

    Together, measurements would take longer, and their times would be wrong.
    """
    if lease.names:
        yield
        return
    with (settings.VAR_DIR / "preflight.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(LOCK_SECONDS)
        yield


def _waiting(deadline: float) -> Callable[[], None]:
    def check() -> None:
        if time.monotonic() > deadline:
            raise CannotRun(
                "Other forecasts or runs use this machine. Ask for the forecast again when it is free."
            )

    return check


def _rehearse(kind: RunKind, folder: Path, gpus: tuple[str, ...]) -> dict[str, Any]:
    status, sentence = run_program([str(folder), "--recipe", kind.module], gpus)
    if status == OUT_OF_MEMORY:
        return {"state": Forecast.State.TOO_LARGE, "error": sentence}
    if status:
        raise CannotRun(sentence)
    measurement = json.loads((folder / MEASUREMENT).read_text())
    return {"state": Forecast.State.DONE, "measurement": measurement}


def run_program(arguments: list[str], gpus: tuple[str, ...]) -> tuple[int, str]:
    """Run `python -m recipes.preflight`, and return its status and the last line of its errors.

    It ends with this process, also if that is killed. Raises CannotRun if it takes too long.
    """
    command = [sys.executable, "-m", "recipes.preflight", *arguments]
    reader, writer = os.pipe()  # the watchdog kills the program when the pipe closes
    watched = [sys.executable, "-m", "runs.supervision.watchdog", str(reader), "", "", *command]
    with subprocess.Popen(
        watched,
        cwd=settings.BASE_DIR,
        env=environment(command, gpus),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        pass_fds=[reader],
    ) as process:
        os.close(reader)
        try:
            _, errors = process.communicate(timeout=MEASURE_SECONDS)
        except subprocess.TimeoutExpired:
            minutes = MEASURE_SECONDS // 60
            raise CannotRun(
                f"The measurement took longer than {minutes} minutes, so there is no forecast."
            ) from None
        finally:
            os.close(writer)
    lines = errors.strip().splitlines() or ["It ended without a message."]
    return process.returncode, lines[-1]


# --- changes with which a run would fit -----------------------------------------------------------


def changes_for(row: Forecast, config: Mapping[str, Any], *, now: bool = False) -> list[Change]:
    """Return changes for a run that does not fit, with their forecasts, which are queued if new.

    With `now`, they are measured in this process. Changes that do not fit either are left out once
    that is known.
    """
    kind = kinds.get(row.kind)
    names = {option.name for option in kind.config_class.options()} - kind.decided
    changes = []
    for values in _candidates(row, config):
        changed = {**config, **values}
        if not values.keys() <= names or not _is_valid(kind, changed):
            continue
        forecast = (
            measured_now(row.kind, changed, row.inputs)
            if now
            else request(row.kind, changed, row.inputs)
        )
        predicted = outcome(forecast, changed)
        unfit = forecast.state in (Forecast.State.TOO_LARGE, Forecast.State.FAILED)
        if unfit or (predicted and not predicted.fits):
            continue
        labels = {kind.config_class.label_of(name): _text(value) for name, value in values.items()}
        changes.append(Change(values, labels, forecast, predicted))
    return changes


def _is_valid(kind: RunKind, config: Mapping[str, Any]) -> bool:
    try:
        kind.config_class.from_dict(config)
    except ConfigError:
        return False
    return True


def _candidates(row: Forecast, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return changed settings, the ones with the least effect on the time first."""
    micro = min(int(config["micro_batch_size"]), int(config["batch_size"]))
    smaller = [n for n in range(micro // 2, 0, -1) if int(config["batch_size"]) % n == 0]
    candidates: list[dict[str, Any]] = [{"micro_batch_size": n} for n in smaller[:1]]
    recompute = {"gradient_checkpointing": _checkpointing(config)}
    if recompute["gradient_checkpointing"] is not None:
        candidates.append(recompute)
        candidates += [{"micro_batch_size": 1, **recompute}] if micro > 1 else []
    if config.get("quantize") == "none" and config.get("lora_r") and _is_on_gpu(row):
        candidates.append({"quantize": "nf4"})
    if "max_new_tokens" in config:
        candidates.append({"max_new_tokens": max(1, int(config["max_new_tokens"]) // 2)})
    elif length := _half_length(row, config):
        candidates.append(length)
    return candidates


def _checkpointing(config: Mapping[str, Any]) -> Any:
    """Return the value that turns gradient checkpointing on, or None if it is on or not offered."""
    value = config.get("gradient_checkpointing")
    if isinstance(value, bool):
        return None if value else True
    return "on" if value in ("auto", "off") else None


def _half_length(row: Forecast, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return half of the longest sequence as a new limit. Without a measurement, of the old limit."""
    name = "max_length" if "max_length" in config else "max_tokens"
    limit = config.get(name)
    if row.measurement:
        longest = row.measurement["whole"].get("longest_sequence") or 0
        limit = min(limit or longest, longest)
    return {name: max(8, int(limit) // 2)} if limit and int(limit) > 8 else None


def _is_on_gpu(row: Forecast) -> bool:
    return row.measurement is not None and row.measurement["device"] != "CPU"


def _text(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
