"""The check that compares forecasts of memory and time with the runs, for `python -m benchmarks.gpu_check`."""

import json
import subprocess
import sys
from typing import Any

from benchmarks.preflight import MEMORY_TARGET, TIME_TARGET
from benchmarks.support.accelerator import ROOT
from benchmarks.support.gpu.world import World

CASES = ("dpo plain layout", "reward pairs")
"""Configurations of benchmarks.preflight, by the beginning of their names."""


def compared(world: World) -> dict[str, Any]:
    """Return the cases of benchmarks.preflight on the device, and the sentence of a problem or "".

    Tiny models make one small configuration, for which no targets apply. The program runs in a process of
    its own, because its rehearsals are forked before CUDA is initialised.
    """
    world.folder.mkdir(parents=True, exist_ok=True)
    what = ["--quick"] if world.tiny else ["--only", *CASES, "--device", world.device]
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.preflight", *what, "--folder", str(world.folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = process.stdout.strip().splitlines()
    if not lines:
        last = process.stderr.strip().splitlines()[-1:]
        return {"problem": f"The forecasts failed: {' '.join(last) or process.returncode}"}
    cases = json.loads(lines[-1])["cases"]
    return {"cases": cases, "problem": "" if world.tiny else problem_of(cases)}


def problem_of(cases: list[dict[str, Any]]) -> str:
    """Return a sentence about the first forecast that misses a target, or "" if all meet them."""
    for case in cases:
        if abs(case["memory_error"]) > MEMORY_TARGET:
            return f"The memory of {case['case']} differs by {case['memory_error']:+.0%}."
        if abs(case["time_error"]) > TIME_TARGET:
            return f"The time of {case['case']} differs by {case['time_error']:+.0%}."
    return ""
