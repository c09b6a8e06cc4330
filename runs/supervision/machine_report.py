"""The report of a worker about its machine: its slots and its GPUs, for the page of the queue.

A thread writes it every few seconds. Nothing depends on it: without reports, runs are executed as usual.
"""

import logging
import socket
import threading
from dataclasses import asdict

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.models.functions import Now

from recipes.machine import faults, gpus
from runs.models import Machine
from runs.supervision.supervisor import SHUTTING_DOWN

logger = logging.getLogger("tiebreak.runs")

REPORT_SECONDS = 10.0


def storage_problem() -> str:
    """Return a sentence if no run can start because of the disks of this machine, otherwise ""."""
    for folder in (settings.VAR_DIR, settings.RUNS_DIR):
        if folder.is_dir() and (sentence := faults.folder_problem(folder)):
            return sentence[:500]
    return ""


def start() -> None:
    """Report this machine from a thread until the worker ends."""
    threading.Thread(target=_report_until_shutdown, name="machine report", daemon=True).start()


def _report_until_shutdown() -> None:
    while True:
        try:
            report()
        except (DatabaseError, InterfaceError) as error:
            logger.debug("The machine was not reported: %s", error)
        finally:
            connection.close()
        if SHUTTING_DOWN.wait(REPORT_SECONDS):
            return


def report(problem: str | None = None) -> None:
    """Store what this machine has, and the problem that a worker met. Costs one statement."""
    rows = [asdict(gpu) for gpu in gpus.installed()]
    machine = Machine(
        host=socket.gethostname()[:200],
        slots=settings.RUNS_AT_ONCE,
        gpus=rows,
        problem=storage_problem() if problem is None else problem[:500],
        reported_at=Now(),
    )
    Machine.objects.bulk_create(
        [machine],
        update_conflicts=True,
        unique_fields=["host"],
        update_fields=["slots", "gpus", "problem", "reported_at"],
    )
