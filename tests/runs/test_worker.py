"""Real workers on a real Redis: what messages, crashes and shutdowns do to a run."""

import os
import signal
import time
from pathlib import Path

from runs.models import Run, RunEvent, State
from tests.runs.test_supervisor import digest_of
from tests.worker import wait_for_end, wait_until

KINDS = "tests.runs.kinds"


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def reach(run: Run, step: int) -> None:
    def there() -> bool:
        run.refresh_from_db()
        return run.step >= step

    wait_until(there, explain=lambda: f"{run.state} at step {run.step}: {run.error}")


def pid_in(runs_dir: Path, run: Run, name: str) -> int:
    return int((runs_dir / str(run.pk) / name).read_text())


def test_it_survives_kill_9_of_the_worker_and_ends_as_if_nothing_had_happened(
    begin, celery_worker, runs_dir
):
    first = celery_worker(include=KINDS)
    run = begin(total=60, delay=0.05, checkpoint_every=5, trouble="grandchild")
    reach(run, 7)
    recipe, grandchild = (
        pid_in(runs_dir, run, "recipe.pid"),
        pid_in(runs_dir, run, "grandchild.pid"),
    )
    assert alive(recipe)
    assert alive(grandchild)
    first.kill()
    wait_until(lambda: not alive(recipe) and not alive(grandchild), 3)
    traces = [runs_dir / str(run.pk) / name for name in ("events.jsonl", "grandchild.txt")]
    sizes = [path.stat().st_size for path in traces]
    time.sleep(0.3)
    assert [path.stat().st_size for path in traces] == sizes, "an orphan kept writing"
    celery_worker(include=KINDS)
    wait_for_end(run)
    assert (run.state, run.attempt) == (State.SUCCEEDED, 2)
    assert run.result["digest"] == digest_of(60)
    said = RunEvent.objects.filter(run=run, event="message").values_list("data__text", flat=True)
    assert any("resumed from step" in text for text in said)


def test_it_goes_back_to_the_queue_with_a_checkpoint_when_the_worker_shuts_down(
    begin, celery_worker, runs_dir
):
    first = celery_worker(include=KINDS)
    run = begin(total=60, delay=0.05, checkpoint_every=1000 // 25)
    reach(run, 5)
    assert first.stop() == 0
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.QUEUED, 0)
    assert list((runs_dir / str(run.pk) / "checkpoints").glob("count-*"))
    celery_worker(include=KINDS)
    wait_for_end(run)
    assert (run.state, run.attempt, run.result["digest"]) == (State.SUCCEEDED, 1, digest_of(60))


def test_it_cancels_within_the_grace_period(begin, celery_worker, runs_dir):
    from runs import services

    celery_worker(include=KINDS)
    run = begin(total=1000, delay=0.05)
    reach(run, 3)
    assert services.cancel(run, None)
    wait_for_end(run, 4)
    assert run.state == State.CANCELLED
    assert not alive(pid_in(runs_dir, run, "recipe.pid"))


def test_it_kills_a_recipe_that_ignores_the_wish_to_stop(begin, celery_worker, runs_dir):
    from runs import services

    celery_worker(include=KINDS, grace=1)
    run = begin(total=1000, delay=0.05, trouble="deaf")
    reach(run, 3)
    recipe = pid_in(runs_dir, run, "recipe.pid")
    services.cancel(run, None)
    wait_for_end(run, 6)
    assert run.state == State.CANCELLED
    assert not alive(recipe)


def test_beat_does_not_outlive_its_worker(celery_worker):
    worker = celery_worker()
    family = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")
    beats = [int(pid) for pid in family.read_text().split()]
    assert beats
    worker.kill()
    wait_until(lambda: not any(alive(pid) for pid in beats), 5)
    assert signal.SIGKILL and os.getpid() not in beats
