"""Test of a small demo loop with a real worker, interrupted and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from config.env import BASE_DIR

pytestmark = pytest.mark.torch

SMALL = ["--exit", "--prompts", "28"]


@pytest.fixture
def environment(folder: Path) -> dict[str, str]:
    unset = {"DATABASE_URL", "REDIS_URL", "TIEBREAK_LOCAL_SERVICES"}
    return {k: v for k, v in os.environ.items() if k not in unset} | {
        "TIEBREAK_VAR": str(folder / "var"),
        "PYTHONUNBUFFERED": "1",
    }


def begin(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "demo", *SMALL],
        cwd=BASE_DIR, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_an_interrupted_demo_resumes_and_prints_its_figures(
    environment: dict[str, str], folder: Path
) -> None:
    demo = begin(environment)
    assert demo.stderr
    for line in demo.stderr:
        if "Training a reward model" in line:
            break
    time.sleep(1)
    demo.send_signal(signal.SIGKILL)
    demo.wait(10)

    again = begin(environment)
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert {
        "reward_accuracy", "reward_accuracy_ci", "reward_accuracy_ceiling", "reviewer_agreement",
        "win_rate", "win_rate_ci", "rankings", "seconds", "blind_win_rate", "blind_win_rate_ci",
    } <= figures.keys()  # fmt: skip
    assert figures["rankings"] == 4 * 21, "21 letters ranked, 7 left for people, nothing doubled"
    assert figures["promoted"] == (figures["conclusion"] == "better")
    assert 0 <= figures["win_rate_ci"][0] <= figures["win_rate"] <= figures["win_rate_ci"][1] <= 1

    started = time.monotonic()
    third, _ = begin(environment).communicate(timeout=60)
    assert json.loads(third.splitlines()[-1]) == figures
    assert time.monotonic() - started < 30
    assert "127.0.0.1" in third
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in " ".join(process.info["cmdline"] or []):
            process.wait(15)
