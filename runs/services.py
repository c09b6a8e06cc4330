"""Start, cancel, restart and execute runs. The web, the commands and the tests share these functions."""

import logging
import time
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from celery import current_app
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now
from kombu.exceptions import OperationalError as BrokerError

from accounts.models import User, audit
from recipes.settings import ConfigError
from runs import kinds, lifecycle, storage
from runs.kinds import CannotRun, RunKind
from runs.models import ENDED, Run, State
from runs.supervision import machine_slots, supervisor, workspace

logger = logging.getLogger("tiebreak.runs")

QUEUE = "gpu"
FOLLOW_SECONDS = 0.5


class InvalidConfig(ValueError):  # noqa: N818
    """Raised if a run cannot be queued, before anything is written.

    `errors` maps a field, "inputs" or "request_id" to a sentence.
    """

    def __init__(self, errors: dict[str, str]):
        super().__init__(" ".join(f"{name}: {text}" for name, text in errors.items()))
        self.errors = errors


def start(
    kind: str,
    config: dict[str, Any],
    by: User | None,
    *,
    inputs: dict[str, Any],
    title: str = "",
    request_id: UUID | None = None,
    send: bool = True,
) -> Run:
    """Queue a run, and notify a worker after the commit. The same request id returns the same run.

    If the broker is down, the run waits until the reaper notifies a worker. Pass `send=False` to call
    `run_now` afterwards. Raises InvalidConfig if the settings or inputs are invalid.
    """
    request_id = request_id or uuid4()
    fields = {"kind": kind, "config": checked(kind, config, inputs), "inputs": inputs}
    try:
        with transaction.atomic():
            run = Run.objects.create(
                **fields,
                project_id=kinds.get(kind).project_of(inputs),
                title=title[:200],
                created_by=by,
                request_id=request_id,
            )
            audit(by, "start", run)
    except IntegrityError:
        return _started_before(request_id, fields)
    if send:
        transaction.on_commit(lambda: notify_worker(run.pk))
    return run


def _started_before(request_id: UUID, fields: dict[str, Any]) -> Run:
    run = Run.objects.get(request_id=request_id)
    if any(getattr(run, name) != value for name, value in fields.items()):
        text = f"This form has already started run #{run.pk}, with other settings. Submit it again."
        raise InvalidConfig({"request_id": text})
    return run


def checked(kind: str, config: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the complete config that would be stored with the run. Raises InvalidConfig."""
    try:
        run_kind = kinds.get(kind)
        decided = run_kind.from_inputs(inputs)
    except CannotRun as error:
        raise InvalidConfig({"inputs": str(error)}) from None
    try:
        values = run_kind.config_class.from_dict({**config, **decided}).to_dict()
        frozen = run_kind.checked(values)
        _check_folders(run_kind, frozen)
    except ConfigError as error:
        raise InvalidConfig(_of_form(run_kind, error.errors)) from None
    return frozen


def _check_folders(kind: RunKind, config: dict[str, Any]) -> None:
    """Raise ConfigError if a folder in the settings is missing."""
    errors: dict[str, str] = {}
    for name in kind.folders & config.keys():
        try:
            storage.check(config[name] or "")
        except storage.MissingFiles as problem:
            errors[name] = str(problem)
    if errors:
        raise ConfigError(errors)


def _of_form(kind: RunKind, errors: dict[str, str]) -> dict[str, str]:
    """Return the errors, with those in settings that the inputs determine assigned to the inputs."""
    return {("inputs" if name in kind.decided else name): text for name, text in errors.items()}


def notify_worker(run_id: int) -> bool:
    """Send the run's id to a worker. If the broker is unavailable, log a warning and return False."""
    try:
        current_app.send_task("runs.tasks.execute", args=[run_id], queue=QUEUE, retry=False)
    except (BrokerError, OSError) as error:
        logger.warning("Run %s waits: the broker does not answer (%s).", run_id, error)
        return False
    Run.objects.filter(pk=run_id, state=State.QUEUED).update(message_sent_at=Now())
    return True


def cancel(run: Run, by: User | None) -> bool:
    """Cancel a run. Return False if that is not possible; `why_not_cancelled` gives the reason."""
    return lifecycle.request_cancel(run, by)


def why_not_cancelled(run: Run) -> str:
    """Return a sentence that says why `cancel` returned False."""
    run.refresh_from_db()
    if run.state in ENDED:
        return f"Run {run.pk} has already ended ({run.get_state_display().lower()})."
    return (
        f"Run {run.pk} is already being cancelled. It writes a checkpoint and ends within "
        f"{settings.RUN_GRACE_SECONDS} seconds."
    )


def restart(run: Run, by: User | None) -> bool:
    """Continue a failed or cancelled run from its last checkpoint.

    Return False if the run is in another state.
    """
    done = lifecycle.restart(run, by)
    if done:
        transaction.on_commit(lambda: notify_worker(run.pk))
    return done


def restart_label(run: Run) -> str:
    """Return the label of the button that restarts the run, or "" if there should be no button.

    There is none for a run that failed before its first checkpoint, because it would fail again.
    """
    if run.state not in (State.FAILED, State.CANCELLED):
        return ""
    if workspace.has_checkpoint(workspace.run_dir_of(run)):
        return "Continue from the last checkpoint"
    return "Start from the beginning" if run.state == State.CANCELLED else ""


def execute(run_id: int) -> None:
    """Execute the oldest queued run if this machine has a free slot.

    A worker calls this for each message. The oldest run may be another one than the run in the message,
    `run_id`. If runs are still queued when it ends, a worker is notified.
    """
    with machine_slots.acquire() as slot:
        if slot is None or supervisor.SHUTTING_DOWN.is_set():
            return
        lease = lifecycle.claim_oldest(supervisor.owner())
        if lease is None:
            return
        slot.note(lease)
        supervisor.supervise(lease, slot)
    notify_waiting(limit=1)


def run_now(run_id: int) -> Run:
    """Claim and supervise a run in the foreground, and return it when it has ended.

    If a worker has already claimed it, wait until it ends. Ctrl-C cancels the run.
    """
    run = Run.objects.get(pk=run_id)
    try:
        while run.state not in ENDED:
            lease = lifecycle.claim(run_id, supervisor.owner())
            if lease:
                supervisor.supervise(lease)
            else:
                time.sleep(FOLLOW_SECONDS)
            run.refresh_from_db()
    except KeyboardInterrupt:
        _give_up(run)
        raise
    return run


def _give_up(run: Run) -> None:
    """Cancel a run whose recipe was killed by Ctrl-C, and end it if this process holds it."""
    lifecycle.request_cancel(run, None)
    run.refresh_from_db()
    if run.state == State.RUNNING and run.lease_owner == supervisor.owner():
        lifecycle.cancel(lifecycle.Lease(run.pk, run.fencing_token))


def reap() -> None:
    """Requeue the runs of dead workers, and notify workers of runs whose message was lost."""
    lifecycle.reap()
    notify_waiting(limit=100)


def notify_waiting(*, limit: int) -> None:
    """Send a message for each of the oldest queued runs that have had none recently.

    Nothing is sent while earlier messages are pending.
    """
    overdue = Q(message_sent_at=None) | Q(
        message_sent_at__lt=Now() - timedelta(seconds=settings.RUN_LEASE_SECONDS)
    )
    if limit == 1:
        overdue = Q()
    waiting = Run.objects.filter(overdue, state=State.QUEUED).order_by("id")
    ids = list(waiting.values_list("id", flat=True)[:limit])
    if ids and not pending_messages():
        for run_id in ids:
            if not notify_worker(run_id):
                return


def pending_messages() -> int:
    """Return the number of messages in the queue, or 0 if the broker is unavailable."""
    broker = current_app.connection_for_write()
    with broker:
        try:
            return broker.default_channel.queue_declare(queue=QUEUE, passive=True).message_count
        except (*broker.channel_errors, *broker.connection_errors, BrokerError):
            return 0
