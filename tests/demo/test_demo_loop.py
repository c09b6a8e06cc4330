"""Test of a small demo of two rounds with a real worker, interrupted and started again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from config.env import BASE_DIR

pytestmark = pytest.mark.torch

SMALL = ["--exit", "--prompts", "20", "--rounds", "2"]


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
        if "Ranking" in line:
            break
    demo.send_signal(signal.SIGKILL)
    demo.wait(10)

    again = begin(environment)
    out, err = again.communicate(timeout=480)
    assert again.returncode == 0, err
    figures = json.loads(out.splitlines()[-1])
    assert {
        "reward_accuracy", "reward_accuracy_ci", "reward_accuracy_ceiling", "reviewer_agreement",
        "win_rate", "win_rate_ci", "rankings", "seconds", "blind_win_rate", "blind_win_rate_ci",
    } <= figures.keys()  # fmt: skip
    assert figures["rankings"] == 4 * (15 + 20), "5 letters of round 1 left for people, none twice"
    assert "127.0.0.1" in out
    first, second = figures["rounds"]
    assert (first["round"], second["round"]) == (1, 2)
    assert first.items() <= figures.items(), "the figures are those of the first round"
    for result in (first, second):
        low, high = result["win_rate_ci"]
        assert 0 <= low <= result["win_rate"] <= high <= 1
        low, high = result["rule_score_ci"]
        assert 0 <= low <= result["rule_score"] <= high <= 10
        change = result["rule_score"] - result["rule_score_before"]
        assert result["rule_score_change"] == pytest.approx(change)
        assert result["promoted"] <= (result["conclusion"] == "better")

    third, err = begin(environment).communicate(timeout=60)
    assert json.loads(third) == figures, "a finished demo only prints its figures"
    assert "Sampling" not in err
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in " ".join(process.info["cmdline"] or []):
            process.wait(15)
