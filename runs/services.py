"""Start, cancel and restart runs. The web, the commands and the tests share these functions."""

from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import IntegrityError, connection, transaction

from accounts.models import User, audit
from recipes.settings import ConfigError
from runs import kinds, launchers, lifecycle, preflight, storage
from runs.kinds import CannotRun, RunKind
from runs.models import ENDED, Priority, Run, State, projects_trained_by
from runs.supervision import workspace


class InvalidConfig(ValueError):  # noqa: N818
    """Raised if a run cannot be queued, before anything is written.

    `errors` maps a field, "inputs" or "request_id" to a sentence.
    """

    def __init__(self, errors: dict[str, str]):
        super().__init__(" ".join(f"{name}: {text}" for name, text in errors.items()))
        self.errors = errors


class SameRun(InvalidConfig):
    """Raised if a run with the same settings and inputs has not ended. `run` is this run."""

    def __init__(self, run: Run):
        self.run = run
        state = run.get_state_display().lower()
        text = f"Run #{run.pk} has the same settings and inputs, and is {state}."
        super().__init__({"again": text})


def start(
    kind: str,
    config: dict[str, Any],
    by: User | None,
    *,
    inputs: dict[str, Any],
    preset: str = "",
    title: str = "",
    request_id: UUID | None = None,
    again: bool = True,
    send: bool = True,
) -> Run:
    """Queue a run, and notify a worker after the commit. The same request id returns the same run.

    `config` changes the settings of the preset. Without a preset, it changes the defaults.

    If the broker is down, the run waits until the reaper notifies a worker. Pass `send=False` to call
    `execution.run_now` afterwards. Raises InvalidConfig if the settings or inputs are invalid, and
    SameRun if a run with the same settings and inputs has not ended, unless `again`.
    """
    request_id = request_id or uuid4()
    fields: dict[str, Any] = {
        "kind": kind,
        "config": checked(kind, config, inputs, preset),
        "inputs": inputs,
    }
    project = kinds.get(kind).project_of(inputs)
    if by is not None and not may_start(by, project):
        raise InvalidConfig({"inputs": "Only trainers of the project may start its runs."})
    try:
        with transaction.atomic():
            if not again:
                _refuse_same_run(request_id, fields)
            run = Run.objects.create(
                **fields,
                project_id=project,
                title=title[:200],
                created_by=by,
                request_id=request_id,
                forecast=preflight.for_run(kind, fields["config"], inputs),
            )
            audit(by, "start", run)
    except IntegrityError:
        earlier = Run.objects.filter(request_id=request_id).first()
        if earlier is None:
            raise
        return _started_before(earlier, fields)
    if send:
        transaction.on_commit(lambda: launchers.chosen().run_queued(run.pk))
    return run


def may_start(user: User, project: int | None) -> bool:
    """Return whether the user may start runs of the project, or of no project. At most one query."""
    if user.is_everywhere:
        return user.can_train
    return projects_trained_by(user).filter(pk=project).exists()


def _refuse_same_run(request_id: UUID, fields: dict[str, Any]) -> None:
    """Raise SameRun if another request has queued or started the same run.

    Until the transaction ends, no other request can start a run in this way. So two tabs that send the
    form at the same time start one run.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('runs.start', 0))")
    waiting = Run.objects.filter(**fields).exclude(state__in=ENDED).exclude(request_id=request_id)
    if same := waiting.order_by("pk").first():
        raise SameRun(same)


def _started_before(run: Run, fields: dict[str, Any]) -> Run:
    if any(getattr(run, name) != value for name, value in fields.items()):
        text = f"This form has already started run #{run.pk}, with other settings. Submit it again."
        raise InvalidConfig({"request_id": text})
    return run


def checked(
    kind: str, config: dict[str, Any], inputs: dict[str, Any], preset: str = ""
) -> dict[str, Any]:
    """Return the complete config that would be stored with the run. Raises InvalidConfig.

    A setting that has no effect, because of another setting, is refused.
    """
    try:
        run_kind = kinds.get(kind)
        of_inputs = run_kind.from_inputs(inputs)
    except CannotRun as error:
        raise InvalidConfig({"inputs": str(error)}) from None
    try:
        chosen = run_kind.config_class.with_preset(preset, config)
        values = run_kind.config_class.from_dict({**chosen, **of_inputs})
        frozen = run_kind.checked(values.without_unused(preset).to_dict())
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


def set_priority(run: Run, priority: Priority, by: User | None) -> bool:
    """Change the priority of a queued run. Return False if it is no longer queued."""
    return lifecycle.set_priority(run, priority, by)


def restart(run: Run, by: User | None) -> bool:
    """Continue a failed or cancelled run from its last checkpoint.

    Return False if the run is in another state.
    """
    done = lifecycle.restart(run, by)
    if done:
        transaction.on_commit(lambda: launchers.chosen().run_queued(run.pk))
    return done


def restart_label(run: Run) -> str:
    """Return the label of the button that restarts the run, or "" if it cannot be restarted.

    A run that failed before its first checkpoint has the button too: its disk may have been full.
    """
    if run.state not in (State.FAILED, State.CANCELLED):
        return ""
    if workspace.has_checkpoint(workspace.run_dir_of(run)):
        return "Continue from the last checkpoint"
    return "Start from the beginning"
