"""All checks that need a GPU, the most important first, within nine minutes.

    python -m benchmarks.gpu_check                      one H200 or similar: 9 minutes
    python -m benchmarks.gpu_check --tiny               the same code with tiny models, on a CPU
    python -m benchmarks.gpu_check --only mfu           some checks; --list shows all

Models have the shapes of Qwen2.5 0.5B, Qwen2.5 1.5B and Llama 3.1 8B and random weights, so nothing
is downloaded. Each check runs in a separate process, so one that crashes the GPU does not end the
others. Kernels that one check compiles are stored for the others, and so are responses and reward
models. Each check prints a line of JSON when it ends. Results of passed checks are stored in
`--folder`, and these checks are not repeated for the same commit. So the same command continues
after an interruption or after the time has run out. A check that does not begin within `--minutes`
is listed as not run.

The last line is one JSON object with all checks. Exit status: 0 all passed, 1 one failed, 2 some
were not run. benchmarks/support/gpu/checks.py has the checks.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch

from benchmarks.support.accelerator import ROOT, commit, hardware
from benchmarks.support.gpu.checks import CHECKS, START_SECONDS, Check, CheckFailed
from benchmarks.support.gpu.world import World
from recipes.machine import gpus
from recipes.rundir import versions, write_json
from recipes.runner import quiet_libraries

MIN_SECONDS = 20
"""Seconds. A check does not begin if less time is left."""


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.list:
        for check in CHECKS:
            print(f"{check.name:16} {check.seconds:4} s  {check.about}")
        total = START_SECONDS + sum(check.seconds for check in CHECKS)
        print(f"{'all, with start':16} {total:4} s")
        return 0
    if not options.tiny and not gpus.installed():
        print("nvidia-smi finds no GPU. With --tiny, the checks run on the CPU.", file=sys.stderr)
        return 2
    if options.restart:
        shutil.rmtree(options.folder, ignore_errors=True)
    cases = run_all(chosen(options), options)
    print(json.dumps(summary(cases, options)))
    if any(case["ok"] is False for case in cases):
        return 1
    return 2 if any(case["ok"] is None for case in cases) else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [check.name for check in CHECKS]
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="some checks")
    parser.add_argument("--list", action="store_true", help="list the checks and their usual time")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="time for all checks together (default 9)"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "var" / "gpu_check",
        help="results and models; needs 60 GB for the model of 8 billion weights (default "
        "var/gpu_check)",
    )
    parser.add_argument("--restart", action="store_true", help="repeat passed checks")
    return parser.parse_args(argv)


def chosen(options: argparse.Namespace) -> list[Check]:
    return [check for check in CHECKS if not options.only or check.name in options.only]


# --- running --------------------------------------------------------------------------------------


def run_all(checks: Sequence[Check], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a case per check. `ok` is None for checks that were not run for lack of time."""
    quiet_libraries()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.folder / "kernels"))
    deadline = time.monotonic() + 60 * options.minutes
    measured = commit("benchmarks", "finetune", "recipes", "reward")
    cases = []
    for check in checks:
        file = options.folder / f"{check.name}{'-tiny' if options.tiny else ''}.json"
        case = passed_before(file, measured)
        if case is None:
            case = {"check": check.name, "commit": measured, **in_time(check, deadline, options)}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, case)
        print(json.dumps(case), flush=True)
        cases.append(case)
    return cases


def passed_before(file: Path, measured: str | None) -> dict[str, Any] | None:
    """Return the stored case if it passed at this commit, or None."""
    try:
        case = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    same = case.get("ok") is True and case.get("commit") == measured
    return {**case, "resumed": True} if same else None


def in_time(check: Check, deadline: float, options: argparse.Namespace) -> dict[str, Any]:
    seconds = deadline - time.monotonic()
    if seconds < MIN_SECONDS:
        return {"ok": None, "error": "There was no time left. Run the same command again."}
    say(f"{check.name}: {check.about} ({seconds:.0f} s left)")
    return in_own_process(check, World(options.folder, tiny=options.tiny), seconds)


def in_own_process(check: Check, world: World, seconds: float) -> dict[str, Any]:
    """Run a check in a forked process, which must not inherit an initialised CUDA."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=attempt, args=(check, world, sender))
    began = time.monotonic()
    process.start()
    sender.close()
    try:
        result = receiver.recv() if receiver.poll(seconds) else late(check, seconds)
    except EOFError:
        process.join()
        result = {"ok": False, "error": f"The process ended with status {process.exitcode}."}
    process.kill()
    process.join()
    return {**result, "seconds": round(time.monotonic() - began, 1)}


def late(check: Check, seconds: float) -> dict[str, Any]:
    return {"ok": None, "error": f"{check.name} did not end within {seconds:.0f} seconds."}


def attempt(check: Check, world: World, sender: Any) -> None:
    if world.tiny:
        torch.set_num_threads(1)  # tiny models are slower with several
    try:
        sender.send({"ok": True, "figures": check.run(world)})
    except CheckFailed as failure:
        sender.send({"ok": False, "error": str(failure), "figures": failure.figures})
    except Exception as error:
        traceback.print_exc()
        sender.send({"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]})


# --- output ---------------------------------------------------------------------------------------


def summary(cases: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    installed = gpus.installed()
    device = {"gpus": [gpu.name for gpu in installed], **hardware("cpu")}
    return {
        "name": "gpu_check",
        "commit": commit("benchmarks", "finetune", "recipes", "reward"),
        "hardware": device,
        "tiny": options.tiny,
        "versions": versions(),
        "cases": list(cases),
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
