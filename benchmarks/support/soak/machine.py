"""The machine of the soak: a disk, PostgreSQL, Redis, workers and a scheduler, all its own.

PostgreSQL and Redis run under the keeper of `manage.py local`, which restarts them when they end, in
`servers/`. Workers have another data folder, `disk/`, with the run directories and the locks of the
machine's slots. It is a small tmpfs if this process may mount one. All processes are ended by their id.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.support.databases import SECRET_KEY
from config.env import BASE_DIR
from config.local.services import provide

LEASE_SECONDS = 3
GRACE_SECONDS = 3
MAX_ATTEMPTS = 40
AT_ONCE = 3
DISK_MB = 64
WORKERS = 2
STOP_SECONDS = 30


class Disk:
    """The disk of the workers, which can be full or read-only for a while.

    As root on Linux, it is a tmpfs. It is filled with one large file, and made read-only with the
    immutable attribute, since a file system in use cannot be remounted read-only. Otherwise,
    RLIMIT_FSIZE of the workers' processes stands for a full disk, and nothing for a read-only one.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "tmpfs", str(folder)]
        self.is_mounted = _succeeds(command)
        probe = folder / "probe"
        probe.mkdir()
        self.can_be_read_only = _succeeds(["chattr", "+i", str(probe)])
        _succeeds(["chattr", "-i", str(probe)])
        probe.rmdir()

    @property
    def method(self) -> str:
        full = f"tmpfs of {DISK_MB} MB" if self.is_mounted else "RLIMIT_FSIZE"
        return f"{full}; read-only by {'chattr +i' if self.can_be_read_only else 'nothing'}"

    def fill(self, processes: list[psutil.Process]) -> None:
        if not self.is_mounted:
            for process in processes:
                _limit_files(process, 100)
            return
        with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    def free(self, processes: list[psutil.Process]) -> None:
        (self.folder / "filler").unlink(missing_ok=True)
        if not self.is_mounted:
            for process in processes:
                _limit_files(process, resource.RLIM_INFINITY)

    def set_read_only(self, value: bool) -> None:
        subprocess.run(
            ["chattr", "-R", "-f", "+i" if value else "-i", str(self.folder)],
            stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def remove(self) -> None:
        self.set_read_only(False)
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)


def _succeeds(command: list[str]) -> bool:
    try:
        return not subprocess.run(command, capture_output=True, check=False).returncode
    except OSError:
        return False


def _limit_files(process: psutil.Process, size: int) -> None:
    with suppress(psutil.Error, OSError):
        _, hard = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (size, hard))


class Machine:
    """The servers, workers and scheduler, and their disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = (folder / "log").open("ab")
        self.disk = Disk(folder / "disk")
        self.ledgers = folder / "ledgers"
        self.ledgers.mkdir()
        for name in ("DATABASE_URL", "REDIS_URL", "TIEBREAK_LOCAL_SERVICES"):
            os.environ.pop(name, None)
        os.environ["TIEBREAK_VAR"] = str(folder / "servers")
        provide()
        services = json.loads((folder / "servers/local/services.json").read_text())
        self.keeper = psutil.Process(services["pid"])
        self.variables = {
            "TIEBREAK_SECRET_KEY": SECRET_KEY,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "TIEBREAK_VAR": str(self.disk.folder),
            "TIEBREAK_RUN_LEASE_SECONDS": str(LEASE_SECONDS),
            "TIEBREAK_RUN_GRACE_SECONDS": str(GRACE_SECONDS),
            "TIEBREAK_RUN_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            "TIEBREAK_RUNS_AT_ONCE": str(AT_ONCE),
        }
        os.environ.update(self.variables)
        self.workers: list[psutil.Popen] = []
        self.beat: psutil.Popen | None = None

    def start(self) -> None:
        manage = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(manage, cwd=BASE_DIR, check=True)
        self.workers = [self.start_worker(n) for n in range(WORKERS)]
        self.beat = self.start_beat()

    def start_worker(self, number: int) -> psutil.Popen:
        return self._celery(
            "worker", "--pool", "threads", "--concurrency", "3", "--queues", "default,gpu",
            "--include", "benchmarks.support.soak.kinds", "--hostname", f"soak-{number}@localhost",
            "--without-gossip", "--without-mingle", "--loglevel", "info",
        )  # fmt: skip

    def start_beat(self) -> psutil.Popen:
        return self._celery("beat", "--pidfile", "", "--loglevel", "warning")

    def _celery(self, *arguments: str) -> psutil.Popen:
        return psutil.Popen(
            [sys.executable, "-m", "celery", "--app", "config", *arguments],
            cwd=BASE_DIR, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def revive(self) -> None:
        """Restart workers and the scheduler that have ended, as a service manager does."""
        for n, worker in enumerate(self.workers):
            if worker.poll() is not None:
                self.workers[n] = self.start_worker(n)
        if self.beat and self.beat.poll() is not None:
            self.beat = self.start_beat()

    def server(self, name: str) -> psutil.Process | None:
        """Return the main process of PostgreSQL ("postgres") or Redis ("valkey", "redis")."""
        with suppress(psutil.Error):
            return next((p for p in self.keeper.children() if name in p.name()), None)
        return None

    def recipes(self) -> dict[psutil.Process, int]:
        """Return the processes of recipes and their watchdogs, with the id of their run."""
        start = f"{self.disk.folder}/runs/"
        processes = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                last = (process.cmdline() or [""])[-1]
                if last.startswith(start) and process.status() != psutil.STATUS_ZOMBIE:
                    processes[process] = int(last.removeprefix(start))
        return processes

    def family(self) -> list[psutil.Process]:
        """Return the workers, and all processes that they have started."""
        family = []
        for worker in self.workers:
            with suppress(psutil.Error):
                family += [worker, *worker.children(recursive=True)]
        return family

    def stop_workers(self) -> None:
        """Stop the workers and the scheduler, and kill those that do not stop."""
        processes = [*self.workers, *([self.beat] if self.beat else [])]
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5)

    def remove(self) -> None:
        """End every process of the soak, and remove its disk."""
        self.stop_workers()
        for process in self.recipes():
            with suppress(psutil.Error):
                process.kill()
        with suppress(psutil.Error):
            self.keeper.terminate()
            psutil.wait_procs([self.keeper], timeout=STOP_SECONDS)
        self.log.close()
        self.disk.remove()


@contextmanager
def machine(keep: Path | None = None) -> Iterator[Machine]:
    """Yield a machine in a temporary folder, and remove both afterwards.

    The log, the ledgers and the run directories are copied to `keep`.
    """
    folder = Path(tempfile.mkdtemp(prefix="tb-soak-"))
    folder.chmod(0o711)  # as root, PostgreSQL runs as another account
    made = Machine(folder)
    try:
        made.start()
        yield made
    finally:
        if keep:
            _copy(made, keep)
        made.remove()
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)


def _copy(made: Machine, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    made.log.flush()
    shutil.copy(made.folder / "log", keep / "log")
    for source in (made.ledgers, made.disk.folder / "runs"):
        shutil.copytree(source, keep / source.name, dirs_exist_ok=True)


def environment(made: Machine) -> dict[str, Any]:
    """Return the settings of the machine, for the report."""
    return {
        "workers": WORKERS,
        "runs_at_once": AT_ONCE,
        "lease_s": LEASE_SECONDS,
        "disk": made.disk.method,
    }
