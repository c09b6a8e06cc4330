"""Runs in processes that kill themselves with SIGKILL at a chosen point.

A point is a forward pass of a model, or an access that writes a file of the run. Its label contains
the stage of the run or the folder of the file, so that a test can choose a window of time, such as
the writing of a checkpoint. The processes are forked (tests/forks.py).
"""

import os
import runpy
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forks import context

FOLDERS = ("checkpoints", ".reference", ".output-draft")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")
SAMPLING, STEP = "sampling", "step"


@dataclass(frozen=True)
class Point:
    """The n-th time that a process reaches a point with this label, counted from 1."""

    label: str
    number: int


@dataclass(frozen=True)
class Ended:
    """The exit status of a process, and the labels of its points in order if it was not killed."""

    status: int
    labels: list[str]
    log: str


def run(program: str, folder: Path, kill_at: Point | None = None) -> Ended:
    """Run the program on the run directory as `python -m PROGRAM FOLDER` does."""
    processes = context()
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_run, args=(program, folder, kill_at, sender))
    process.start()
    sender.close()
    try:
        labels = receiver.recv()
    except EOFError:
        labels = []
    process.join(60)
    log = log_of(folder).read_text() if log_of(folder).exists() else ""
    return Ended(-signal.SIGALRM if process.exitcode is None else process.exitcode, labels, log)


def log_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


# --- the process ------------------------------------------------------------------------------------


class Watch:
    """The points that a process has reached. It dies at the chosen one."""

    def __init__(self, folder: Path, kill_at: Point | None):
        self.root = folder.parent
        self.kill_at = kill_at
        self.stage = "start"
        self.labels: list[str] = []
        self.counts: Counter[str] = Counter()

    def reach(self, label: str) -> None:
        self.labels.append(label)
        self.counts[label] += 1
        if self.kill_at == Point(label, self.counts[label]):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_forward(self, module: Any, inputs: Any) -> None:
        """Note a forward pass of a model, which has one module for the embeddings of its tokens."""
        import torch

        if not isinstance(module, torch.nn.Embedding):
            return
        training = self.stage == "Training" or self.stage.endswith(": Training")
        if training and torch.is_grad_enabled():
            self.reach(STEP)
        elif training or self.stage.endswith("Sampling responses"):
            self.reach(SAMPLING)
        else:
            self.reach(self.stage)

    def on_audit(self, event: str, args: tuple[Any, ...]) -> None:
        written = event == "open" and isinstance(args[2], int) and args[2] & WRITES
        if not (written or event in CHANGES) or not isinstance(args[0], str | os.PathLike):
            return
        path = Path(args[0])
        if path.is_relative_to(self.root):
            parts = path.relative_to(self.root).parts
            self.reach(next((name for name in FOLDERS if name in parts), "other files"))


def _run(program: str, folder: Path, kill_at: Point | None, sender: Any) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    from recipes.rundir import RunDir

    with log_of(folder).open("a") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    torch.set_num_threads(1)
    watch, emit = Watch(folder, kill_at), RunDir.emit

    def watched_emit(self: RunDir, event: str, **fields: Any) -> None:
        emit(self, event, **fields)
        if event == "stage":
            watch.stage = fields["text"]

    RunDir.emit = watched_emit  # type: ignore[method-assign]
    register_module_forward_pre_hook(watch.on_forward)
    sys.addaudithook(watch.on_audit)
    sys.argv = [program, str(folder)]
    try:
        runpy.run_module(program, run_name="__main__")
    finally:
        sender.send(watch.labels)
