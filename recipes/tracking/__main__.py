"""Log the curves of a run to MLflow and Weights & Biases while it trains, and until it has ended.

    python -m recipes.tracking RUN_DIR --title "Lamps" --project lamps

The supervisor starts this program next to the recipe, if the variables of a service are set. It has
their keys, which the recipe must not see. It reads events.jsonl, so it also works on the directory of
a run that has ended. It ends when its standard input ends. The last line of the input is the outcome:
succeeded, stopped or failed.

A service that cannot be reached is tried again at growing intervals, and for two minutes after the end
of the run. `.tracking.json` in the run directory says what has been logged, so that the next attempt
continues there. Nothing in this program can delay or end the run.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from recipes.rundir import RunDir, write_atomically
from recipes.tracking.events import Point, points_after
from recipes.tracking.mlflow import MLflow
from recipes.tracking.wandb import WeightsAndBiases

STATE = ".tracking.json"
POLL_SECONDS = 2.0
LONGEST_WAIT = 60.0
END_SECONDS = 120
BATCH = 1000
"""Maximum number of points that are logged before the progress is stored."""


class Tracker(Protocol):
    """A service that gets the curves. Each method may raise any error, and is then called again."""

    name: str

    def begin(self) -> None: ...
    def log(self, points: list[Point]) -> None: ...
    def end(self, outcome: str) -> None: ...


class Following:
    """The logging of one run to one service."""

    def __init__(self, run_dir: RunDir, tracker: Tracker, state: dict[str, Any]):
        self.run_dir = run_dir
        self.tracker = tracker
        self.state = state
        self.begun = False
        self.failures = 0
        self.next_at = 0.0

    def step(self, outcome: str | None) -> bool:
        """Log what is new, and return whether everything is logged and, with an outcome, ended."""
        if time.monotonic() < self.next_at:
            return False
        try:
            done = self._step(outcome)
        except Exception as error:  # of the service, of its package or of the network
            self._report(error)
            wait = min(LONGEST_WAIT, POLL_SECONDS * 2**self.failures)
            self.failures, self.next_at = self.failures + 1, time.monotonic() + wait
            return False
        self.failures = 0
        return done

    def _step(self, outcome: str | None) -> bool:
        if not self.begun:
            self.tracker.begin()
            self.begun = True
        points: list[Point] = []
        offset = self.state.get("offset", 0)
        for point, after in points_after(self.run_dir.events_file, offset):
            offset = after
            points += [point] if point else []
            if len(points) == BATCH:
                break
        if points:
            self.tracker.log(points)
        self.state["offset"] = offset
        if len(points) == BATCH:
            return False
        if outcome is not None:
            self.tracker.end(outcome)
        return True

    def _report(self, error: Exception) -> None:
        reason = str(error).strip().partition("\n")[0]
        text = f"{type(error).__name__}: {reason}"[:300].rstrip(".")
        print(f"{self.tracker.name}: {text}", flush=True)
        if not self.failures:
            self.run_dir.message(
                f"{self.tracker.name} does not get the curves: {text}. They are sent again; the "
                "training continues.",
                level="warning",
            )


def trackers(run_dir: RunDir, title: str, project: str, state: dict[str, Any]) -> list[Following]:
    """Return the services whose variables are set."""
    spec = run_dir.spec()
    result: list[Following] = []
    if os.environ.get("MLFLOW_TRACKING_URI"):
        own = state.setdefault("mlflow", {})
        result.append(Following(run_dir, MLflow(own, spec, title, project), own))
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "offline":
        own = state.setdefault("wandb", {})
        wandb = WeightsAndBiases(run_dir.path, own, spec, title, project)
        result.append(Following(run_dir, wandb, own))
    return result


def follow(run_dir: RunDir, title: str, project: str, outcomes: list[str]) -> int:
    """Log until `outcomes` has an entry and everything is logged. Return the exit status."""
    path = run_dir.path / STATE
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    following = trackers(run_dir, title, project, state)
    while following:
        outcome = outcomes[-1] if outcomes else None
        done = [each for each in following if each.step(outcome)]
        write_atomically(path, json.dumps(state))
        if outcome is not None:
            following = [each for each in following if each not in done]
        if following:
            time.sleep(0.1 if outcome is not None else POLL_SECONDS)
    return 0


def read_outcome(outcomes: list[str]) -> None:
    """Wait for the end of the standard input. Afterwards, the program ends within END_SECONDS."""
    lines = sys.stdin.read().split()
    signal.alarm(END_SECONDS)
    outcomes.append(lines[-1] if lines else "failed")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, help="the run directory, with run.json")
    parser.add_argument("--title", required=True, help="the name of the run")
    parser.add_argument("--project", default="runs", help="the project of the run, for its group")
    arguments = parser.parse_args()
    outcomes: list[str] = []
    threading.Thread(target=read_outcome, args=(outcomes,), daemon=True).start()
    return follow(RunDir(arguments.run_dir), arguments.title, arguments.project, outcomes)


if __name__ == "__main__":
    sys.exit(main())
