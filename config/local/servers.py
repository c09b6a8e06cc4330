"""The base class of the servers that the keeper runs, and helpers that end processes."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

from config.local.supervision import Restarts, sentence
from runs.supervision.watchdog import PR_SET_PDEATHSIG, prctl

START_SECONDS = 60
STOP_SECONDS = 15
MAX_LOG_BYTES = 10_000_000


class Server:
    """A server that the keeper runs as a child process. It ends when the keeper ends."""

    name: str
    stop_signal = signal.SIGTERM

    def __init__(self, log: Path):
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.restarts = Restarts()

    # Hooks for subclasses.

    def prepare(self) -> None:
        """End processes of an earlier keeper, and write configuration files."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Return further arguments of subprocess.Popen."""
        return {}

    def answers(self) -> bool:
        """Return whether the server accepts commands. The answer must come within two seconds."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the server without waiting until it answers."""
        self.prepare()
        self.started_at = time.monotonic()
        with self._open_log() as output:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self._end_with_keeper,  # safe: the keeper has one thread
                **self.options(),
            )

    def wait_until_it_answers(self) -> None:
        """Wait until the server answers. Raises SystemExit if it ends or takes too long."""
        assert self.process
        while not self.answers():
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} did not start: {self.last_line()} See {self.log}")
            if time.monotonic() > self.started_at + START_SECONDS:
                raise SystemExit(f"{self.name} does not answer. See {self.log}")
            time.sleep(0.02)

    def revive(self) -> None:
        """Restart the server if it has ended and its pause is over."""
        if self.process and self.process.poll() is not None:
            pause = self.restarts.ended(started_at=self.started_at)
            print(sentence(self.name, self.process.returncode, pause), flush=True)
            self.process = None
        if self.process is None and self.restarts.due():
            try:
                self.start()
            except (SystemExit, OSError, psutil.Error) as error:
                pause = self.restarts.ended(started_at=time.monotonic())
                print(f"{self.name}: {error} Next attempt in {pause:.0f} s.", flush=True)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(self.stop_signal)
        self.process.send_signal(signal.SIGCONT)  # a suspended process handles no other signal
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_line(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 4000))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return (lines or ["it printed nothing"])[-1].rstrip(".") + "."

    def _open_log(self) -> IO[bytes]:
        large = self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES
        return self.log.open("wb" if large else "ab")

    def _end_with_keeper(self) -> None:
        prctl(PR_SET_PDEATHSIG, self.stop_signal)


def end(processes: list[psutil.Process], with_signal: int, seconds: float) -> None:
    """Send a signal to the processes, wait for `seconds`, and kill those that are left."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(with_signal)
            process.send_signal(signal.SIGCONT)
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=seconds)


def processes_in(folder: Path, names: set[str]) -> list[psutil.Process]:
    """Return the other processes that have one of these names and the folder as working directory."""
    directory, matching = str(folder.resolve()), []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in names and process.pid != os.getpid():
            with suppress(psutil.Error, OSError):
                if process.cwd() == directory and process.status() != psutil.STATUS_ZOMBIE:
                    matching.append(process)
    return matching
