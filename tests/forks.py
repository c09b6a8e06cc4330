"""Programs in processes that are forked from one that has imported torch.

A program that imports torch, transformers and TRL takes about 5 seconds of processor time before it
does anything. A fork takes almost none. The tests of the supervisor, of workers, of servers and of
the demo start programs as users do.
"""

import json
import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from formatting.glossary import term_of
from recipes.curves import curves_of

ROOT = Path(__file__).parents[1]
PRELOADED = ["datasets", "torch", "transformers", "trl", "finetune.training.policy_gradient"]


def context() -> ForkServerContext:
    """Return a context whose processes have imported the libraries, but have not used them yet."""
    result = multiprocessing.get_context("forkserver")
    result.set_forkserver_preload(PRELOADED)
    return result


class Program:
    """A running program, with the methods of subprocess.Popen that tests use.

    It has one thread, as models of tests are too small for several. Its output is appended to `log`.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        log: Path = Path(os.devnull),
        variables: Mapping[str, str] | None = None,
    ):
        variables = os.environ if variables is None else variables
        self.log = log
        self._folder = Path(str(arguments[0])) if arguments else None
        self._process = context().Process(
            target=run_module, args=(module, list(map(str, arguments)), log, dict(variables))
        )
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, or the negative number of the signal that ended the program."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise TimeoutError(f"The program has not ended after {timeout} seconds.")
        if self._folder is not None:
            check_curves(self._folder / "events.jsonl")
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def check_curves(events: Path) -> None:
    """Check that the glossary has each figure in the events of a recipe."""
    lines = events.read_bytes().split(b"\n")[:-1] if events.is_file() else []
    progress = [event for event in map(json.loads, lines) if event["event"] == "progress"]
    names = {name for event in progress for name in curves_of(event)}
    unknown = sorted(name for name in names if term_of(name) is None)
    assert not unknown, f"Add {', '.join(unknown)} to formatting/glossary.py."


class ForkedChild:
    """Stands in for runs.supervision.child.Child, without the watchdog.

    It gets the same environment, log and locks, and its exit status has the same form.
    """

    def __init__(
        self,
        command: list[str],
        *,
        log: Path,
        lock: int,
        gpus: Any = None,
        variables: Mapping[str, str] | None = None,
        fence: str = "",
    ):
        from runs.supervision.child import environment

        _, option, module, *arguments = command
        assert option == "-m" and not (gpus and gpus.locks)
        variables = {**environment(command), **(variables or {})}
        self._lock = os.dup(lock)
        self._program = Program(module, *arguments, log=log, variables=variables)
        self.watchdog_pid = self._program.pid

    def ask_to_stop(self) -> None:
        self._program.terminate()

    def kill(self) -> int:
        self._program.kill()
        return self._end(self._program.wait())

    def ended(self, timeout: float) -> int | None:
        """Return the exit status, or None if the program still runs after `timeout` seconds."""
        try:
            return self._end(self._program.wait(timeout))
        except TimeoutError:
            return None

    def _end(self, status: int) -> int:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        return status if status >= 0 else 128 - status


def run_module(
    module: str,
    arguments: list[str],
    log: Path,
    variables: Mapping[str, str],
) -> None:
    """Run a module as `python -m MODULE ARGUMENTS` does, in a session of its own."""
    import torch

    torch.set_num_threads(1)
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(variables)
    with log.open("ab") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
