"""One run carried to its end in this process, by the code that a worker uses."""

import hashlib
import json

import pytest

from runs import services
from runs.models import State

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("runs_dir")]


def digest_of(total: int) -> str:
    digest = ""
    for step in range(1, total + 1):
        digest = hashlib.sha256(f"{digest}{step}".encode()).hexdigest()
    return digest


def test_it_carries_a_run_to_its_result(begin, runs_dir):
    run = services.run_now(begin(total=5, send=False).pk)
    assert (run.state, run.error) == (State.SUCCEEDED, "")
    assert run.result == {"accuracy": 0.75, "digest": digest_of(5)}
    assert (run.step, run.total_steps, run.attempt) == (5, 5, 1)
    spec = json.loads((runs_dir / str(run.pk) / "run.json").read_text())
    assert spec["kind"] == "counting"
    assert spec["run_id"] == run.pk
    assert spec["config"]["word"] == "hello"
    assert spec["inputs"] == {"word": "hello", "letters": 5}
    assert spec["versions"]["python"].startswith("3.")
    assert "counting from 0" in (runs_dir / str(run.pk) / "log.txt").read_text()
