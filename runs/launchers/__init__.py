"""Launchers, which bring queued runs to machines that execute them. TIEBREAK_LAUNCHER chooses one.

A launcher only decides where the supervisor of a run starts. The row of the run remains the source of
truth: the supervisor claims it, renews its lease and ends it in the same way everywhere
(runs.supervision), and the reaper judges a run only by its lease.

To add a launcher, write a class with the methods of `Launcher`, add it to `chosen`, and add its name to
TIEBREAK_LAUNCHER in config/settings.py.
"""

from typing import Protocol

from django.conf import settings


class Launcher(Protocol):
    """The methods are hints, so each may be called too often.

    If the broker or the cluster does not answer, they log a warning and return.
    """

    def run_queued(self, run_id: int) -> None:
        """Start the run soon. This is called by a web request, after the row is committed."""

    def run_ended(self) -> None:
        """Start the next queued run, since a machine may be free."""

    def start_overdue(self) -> None:
        """Start queued runs whose start was lost. The reaper calls this every few seconds."""


def chosen() -> Launcher:
    """Return the launcher of the settings."""
    if settings.LAUNCHER == "ray":
        from runs.launchers.ray import RayLauncher

        return RayLauncher()
    from runs.launchers.workers import WorkerLauncher

    return WorkerLauncher()
