"""Recovery of a training run whose worker is killed."""

import torch
from safetensors.torch import load_file

from accounts.models import Role
from reward.preferences.snapshots import SnapshotFilter, freeze
from runs import services
from runs.models import Run, State
from runs.supervision.workspace import run_dir_of
from tests.reward.factory import make_project, make_prompt, make_task, make_user, rank
from tests.tiny import make_model
from tests.worker import celery_worker, runs_dir, wait_for_end, wait_until

__all__ = ["celery_worker", "runs_dir"]

SETTINGS = {
    "batch_size": 2, "micro_batch_size": 2, "lora_r": 2, "lora_alpha": 4, "epochs": 12,
    "checkpoint_steps": 5, "learning_rate": 1e-2,
}  # fmt: skip


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run_dir_of(run).output / "adapter_model.safetensors")


def test_weights_after_kill_9_of_the_worker_equal_an_uninterrupted_run(celery_worker, tmp_path):
    trainer, project, reviewer = make_user(Role.TRAINER), make_project(), make_user()
    for _ in range(14):
        rank(make_task(make_prompt(project)), reviewer)
    snapshot = freeze(project=project, filter=SnapshotFilter(test_fraction=0.3), by=trainer)
    config = {**SETTINGS, "base_model": str(make_model(tmp_path / "tiny"))}

    def begin() -> Run:
        return services.start("reward", config, trainer, inputs={"snapshot": snapshot.pk})

    def trains() -> bool:
        killed.refresh_from_db()
        return killed.step > 7

    first = celery_worker()
    killed = begin()
    wait_until(trains, 60, lambda: killed.error)
    first.kill()
    celery_worker()
    calm = begin()
    for run, attempts in ((killed, 2), (calm, 1)):
        wait_for_end(run, 90)
        assert (run.state, run.attempt) == (State.SUCCEEDED, attempts), run.error
    resumed, uninterrupted = weights(killed), weights(calm)
    assert resumed.keys() == uninterrupted.keys()
    for name, tensor in uninterrupted.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=1e-5)
