"""The queue of the model server: one thread that gives each job one step in turn.

A step of a chat is one token, or a part of its prompt; a step of scoring is a part of the request. So all
jobs advance together, a cancelled one ends before its next step, and none waits for another to end. Jobs
of one group, such as the chats with one base, have their turns together and share the costly part of a
step. transformers' continuous batching was considered for it: it needs paged attention, and knows neither
several adapters nor our seeded sampling.

There is only one thread because transformers changes torch's default dtype while it loads a model, which
is shared by all threads: it could change the tokens of an answer that another thread computes.

This module does not need torch.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

UNPACED_JOBS = 8
PACED_SHARE = 0.35
"""The share of the time in which the engine computes on a CPU if more than UNPACED_JOBS are in progress.

On two cores, 50 chats would otherwise keep one core busy, and pages of the same machine would wait for it.
"""
MAX_CHARGE_SECONDS = 1.0
"""The most that a step counts, so that a job that loads a model does not wait long for its next turn."""


class JobError(Exception):
    """An error that ends a job. `code` is the name of a gRPC status; the text is a sentence."""

    def __init__(self, code: str, text: str):
        super().__init__(text)
        self.code = code


class Job(Protocol):
    """Work for the engine. Only its thread calls `share`, `advance` and `close`."""

    @property
    def over(self) -> bool:
        """Return whether nobody waits for the result any more."""

    @property
    def group(self) -> Hashable:
        """Return a value that all jobs have which share their next step, or None to share none."""
        return None

    def share(self, jobs: Sequence[Any]) -> None:
        """Do the common part of the next step of the jobs of a group. It is called on one of them.

        It raises nothing: a job without its part does the whole step in `advance`.
        """

    def advance(self, memory: Any) -> bool:
        """Do one step, and return whether the job is complete. Raises JobError."""

    def fail(self, error: JobError) -> None:
        """Report an error to the client."""

    def close(self) -> None:
        """Release the model. It is called once for each job, also after an error."""


class WaitForModel(Exception):  # noqa: N818
    """Raised by `advance` if the model fits into memory only after other jobs have ended."""


def log(text: str) -> None:
    print(f"model server: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Limits:
    """The limits of the server."""

    streams: int = 64
    """Jobs that advance in turn."""
    waiting: int = 64
    """Further jobs that may wait."""
    memory: int = 0
    """Memory of the process in MB, or of the GPU. 0 is half of the machine's, or the whole GPU's."""
    adapters: int = 8
    """Adapters in memory per language model."""
    max_tokens: int = 4096
    """Tokens of an answer."""


@dataclass(eq=False)
class Turn:
    """A started job, and the seconds of work that it has had."""

    job: Job
    seconds: float


class Engine:
    """The thread that owns the models. `make_memory` is called in it, before the first job.

    `clock` measures the seconds of work, and `sleep` waits between two steps if many jobs share a CPU.
    """

    def __init__(
        self,
        make_memory: Callable[[], Any],
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ):
        self.make_memory = make_memory
        self.limits = limits
        self.clock = clock
        self.sleep = sleep
        self.memory: Any = None
        self.used_at = clock()
        self._waiting: deque[Job] = deque()
        self._started: list[Turn] = []
        self._new_next = True
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Add a job. Raises JobError if too many are waiting, or if the server is stopping."""
        with self._changed:
            if self._stopping:
                raise JobError("UNAVAILABLE", "The model server is stopping.")
            if self.jobs >= self.limits.streams + self.limits.waiting:
                raise JobError("RESOURCE_EXHAUSTED", "Too many requests are waiting. Try again.")
            self._waiting.append(job)
            self._changed.notify()

    @property
    def jobs(self) -> int:
        """Return the number of jobs that are not complete."""
        return len(self._waiting) + len(self._started)

    def stop(self) -> None:
        """End the thread after its current step, and all jobs with an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while turns := self._next():
            started = self.clock()
            if len(turns) > 1:
                turns[0].job.share([turn.job for turn in turns])
            for turn in turns:
                if self._step(turn):
                    self._started.remove(turn)
                    turn.job.close()
            self.used_at = self.clock()
            self._pace(self.used_at - started)
            for turn in turns:
                turn.seconds += min(self.used_at - started, MAX_CHARGE_SECONDS) / len(turns)
        for job in [*(turn.job for turn in self._started), *self._waiting]:
            job.fail(JobError("UNAVAILABLE", "The model server is stopping."))
            job.close()

    def _pace(self, seconds: float) -> None:
        """Leave the processors to other programs for a while after `seconds` of work for many jobs."""
        if self.jobs > UNPACED_JOBS and self.memory is not None and self.memory.limits_process:
            self.sleep(min(seconds, MAX_CHARGE_SECONDS) * (1 / PACED_SHARE - 1))

    def _next(self) -> list[Turn]:
        """Return the next turn and those of its group, or none if the engine is stopping. Waits for a job.

        The job that has had the least work is next, so that long steps of one job do not slow others
        down more than by half. Every second turn may start a new job, so that new ones neither wait for
        the started ones nor starve them.
        """
        with self._changed:
            while not (self._waiting or self._started or self._stopping):
                self._changed.wait()
            if self._stopping:
                return []
            may_start = self._new_next and len(self._started) < self.limits.streams
            if self._waiting and (may_start or not self._started):
                self._new_next = False
                least = min((turn.seconds for turn in self._started), default=0.0)
                self._started.append(Turn(self._waiting.popleft(), least))
                return self._started[-1:]
            self._new_next = True
            turn = min(self._started, key=lambda turn: turn.seconds)
            group = turn.job.group
            return [turn] if group is None else [t for t in self._started if t.job.group == group]

    def _step(self, turn: Turn) -> bool:
        job = turn.job
        if job.over:
            return True
        try:
            if self.memory is None:
                self.memory = self.make_memory()
            return job.advance(self.memory)
        except WaitForModel:
            turn.seconds = max(each.seconds for each in self._started)  # let the others work first
            if len(self._started) == 1:
                time.sleep(0.01)
            return False
        except JobError as error:
            job.fail(error)
        except Exception as error:
            job.fail(self._failure(error))
        return True

    def _failure(self, error: Exception) -> JobError:
        """Return the error that a client gets for an unexpected one, and log the details."""
        if self.memory is not None and (problem := self.memory.explain(error)):
            return problem
        traceback.print_exc(file=sys.stderr)
        return JobError("INTERNAL", f"The model server failed ({type(error).__name__}).")
