"""The faults of the soak. Each function causes one fault and returns the function that ends it, or None."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
import redis
from django.conf import settings
from django.db import DatabaseError
from django.db.models import F

from benchmarks.support.databases import say
from benchmarks.support.soak.machine import LEASE_SECONDS, Machine
from runs.models import Run, State

End = Callable[[], None]

HOUR = timedelta(hours=1)


class Faults:
    """The faults so far, and the ends of those that last for a while."""

    def __init__(self, machine: Machine, dice: random.Random):
        self.machine = machine
        self.dice = dice
        self.counts: Counter[str] = Counter()
        self.storage_until = 0.0
        """The time at which the last fault of the disk ended, by the clock of this machine."""
        self.recipes_killed: set[int] = set()
        self.cut_events: Counter[int] = Counter()
        """For each run, the number of events that were cut off, of which some had not been copied."""
        self.kinds: dict[str, Callable[[], tuple[float, End] | None]] = {
            "worker killed": self.worker_killed,
            "worker stopped": self.worker_stopped,
            "worker suspended past its lease": self.worker_suspended,
            "recipe killed": self.recipe_killed,
            "watchdog killed": self.watchdog_killed,
            "scheduler killed": self.scheduler_killed,
            "Redis killed": lambda: self.server_killed("valkey", "redis"),
            "Redis emptied": self.redis_emptied,
            "PostgreSQL killed": lambda: self.server_killed("postgres"),
            "PostgreSQL restarted": self.postgres_restarted,
            "PostgreSQL out of connections": self.connections_used_up,
            "disk full": self.disk_full,
            "disk read-only": self.disk_read_only,
            "worker killed and checkpoint damaged": self.checkpoint_damaged,
            "worker killed and events cut off": self.events_cut_off,
            "database clock one hour ahead": lambda: self.clock_jumped(-HOUR),
            "database clock one hour back": lambda: self.clock_jumped(HOUR),
        }
        if not machine.disk.can_be_read_only:
            del self.kinds["disk read-only"]
        self._active: set[str] = set()
        self._timers: list[threading.Timer] = []

    def cause_one(self) -> None:
        """Cause a random fault that is not in progress. The rarest so far are the most likely.

        A fault that is impossible at the moment, such as a kill of a recipe when none runs, is replaced
        by another one.
        """
        names = [name for name in self.kinds if name not in self._active]
        fewest = min(self.counts[name] for name in names)
        for name in sorted(
            names, key=lambda name: (self.counts[name] > fewest + 1, self.dice.random())
        ):
            try:
                lasting = self.kinds[name]()
            except (psutil.Error, OSError, StopIteration, IndexError, DatabaseError):
                continue
            self.counts[name] += 1
            say(f"  {name}")
            if lasting:
                self._last(name, *lasting)
            return

    def _last(self, name: str, seconds: float, end: End) -> None:
        self._active.add(name)
        timer = threading.Timer(seconds, self._end, [name, end])
        timer.start()
        self._timers.append(timer)

    def _end(self, name: str, end: End) -> None:
        end()
        self._active.discard(name)

    def end_all(self) -> None:
        for timer in self._timers:
            timer.join()

    # --- processes --------------------------------------------------------------------------------

    def worker(self) -> psutil.Popen:
        return self.dice.choice(self.machine.workers)

    def worker_killed(self) -> None:
        worker = self.worker()
        worker.kill()
        worker.wait(10)

    def worker_stopped(self) -> None:
        self.worker().terminate()

    def worker_suspended(self) -> tuple[float, End]:
        worker = self.worker()
        worker.suspend()

        def end() -> None:
            with suppress(psutil.Error):
                worker.resume()

        return self.dice.uniform(LEASE_SECONDS + 1, 2 * LEASE_SECONDS), end

    def recipe_killed(self) -> None:
        self._kill("benchmarks.support.soak.recipe", watchdog=False)

    def watchdog_killed(self) -> None:
        self._kill("runs.supervision.watchdog", watchdog=True)

    def _kill(self, module: str, *, watchdog: bool) -> None:
        candidates = [
            (process, run_id)
            for process, run_id in self.machine.recipes().items()
            if ("runs.supervision.watchdog" in process.cmdline()) == watchdog
        ]
        process, run_id = self.dice.choice(candidates)
        self.recipes_killed.add(run_id)
        process.kill()

    def scheduler_killed(self) -> None:
        if self.machine.beat:
            self.machine.beat.kill()
            self.machine.beat.wait(10)

    # --- servers ----------------------------------------------------------------------------------

    def server_killed(self, *names: str) -> None:
        server = next(s for name in names if (s := self.machine.server(name)))
        server.kill()

    def redis_emptied(self) -> None:
        path = settings.CELERY_BROKER_URL.removeprefix("redis+socket://")
        with suppress(redis.RedisError):
            redis.Redis(unix_socket_path=path, socket_timeout=1).flushall()

    def postgres_restarted(self) -> None:
        server = self.machine.server("postgres")
        assert server
        server.send_signal(signal.SIGINT)

    def connections_used_up(self) -> tuple[float, End]:
        connections: list[psycopg.Connection] = []
        with suppress(psycopg.OperationalError):
            while len(connections) < 200:
                connections.append(psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=2))

        def end() -> None:
            for used in connections:
                used.close()

        return self.dice.uniform(1, 3), end

    def clock_jumped(self, difference: timedelta) -> None:
        """Move the leases, which has the effect of moving the database's clock in the other direction."""
        running = Run.objects.filter(state=State.RUNNING)
        running.update(lease_expires_at=F("lease_expires_at") + difference)

    # --- files ------------------------------------------------------------------------------------

    def disk_full(self) -> tuple[float, End]:
        self.machine.disk.fill(self.machine.family())
        return self._storage_fault(lambda: self.machine.disk.free(self.machine.family()))

    def disk_read_only(self) -> tuple[float, End]:
        self.machine.disk.set_read_only(True)
        return self._storage_fault(lambda: self.machine.disk.set_read_only(False))

    def _storage_fault(self, heal: End) -> tuple[float, End]:
        self.storage_until = float("inf")

        def end() -> None:
            heal()
            self.storage_until = time.time()

        return self.dice.uniform(0.5, 2.5), end

    def _kill_worker_of_a_run(self) -> Path:
        """Kill the worker of a random run in progress, and return the run's directory."""
        recipes = self.machine.recipes()
        process = self.dice.choice(sorted(recipes, key=lambda process: process.pid))
        pids = {parent.pid for parent in process.parents()}
        worker = next(worker for worker in self.machine.workers if worker.pid in pids)
        worker.kill()
        worker.wait(10)
        return self.machine.disk.folder / "runs" / str(recipes[process])

    def checkpoint_damaged(self) -> None:
        """Kill a worker, and change a byte of the newest checkpoint of its run."""
        folder = self._kill_worker_of_a_run()
        paths = folder.glob("checkpoints/count-*")
        newest = sorted(paths, key=lambda path: int(path.stem.partition("-")[2]))[-1]
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)

    def events_cut_off(self) -> None:
        """Kill a worker, and cut the end of the events of its run, as a power failure does."""
        file = self._kill_worker_of_a_run() / "events.jsonl"
        data = file.read_bytes()
        end = max(0, len(data) - self.dice.choice([30, 1000]))
        self.cut_events[int(file.parent.name)] += data[end:].count(b"\n") + 1
        os.truncate(file, end)
