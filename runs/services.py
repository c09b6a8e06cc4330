"""Start, cancel and restart runs. The web, the commands and the tests share these functions."""

from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import IntegrityError, transaction

from accounts.models import User, audit
from recipes.settings import ConfigError
from runs import kinds, lifecycle, storage
from runs.kinds import CannotRun, RunKind
from runs.messages import notify_worker
from runs.models import ENDED, Run, State
from runs.supervision import workspace


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
    `execution.run_now` afterwards. Raises InvalidConfig if the settings or inputs are invalid.
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
