"""The queue of runs: who runs what on which machine, what waits, and why.

There is one queue for all machines. A worker with a free slot claims the first run of it, and the run
then takes free GPUs of this machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now

from runs.models import Machine, Run, State

SILENT_SECONDS = 60
"""Time without a report after which the worker of a machine counts as not running, in seconds."""
MAX_QUEUED = 200


@dataclass
class Device:
    """A GPU of a machine with the run that has it, or a slot of a machine without GPUs."""

    name: str
    use: int | None = None
    temperature: int | None = None
    used_mb: int | None = None
    total_mb: int | None = None
    run: Run | None = None


@dataclass
class Host:
    """A machine with its devices and its runs. `reports` is whether its worker has reported lately.

    `problem` is the reason why its worker starts no runs, or "".
    """

    name: str
    slots: int
    reports: bool
    problem: str = ""
    runs: list[Run] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)

    @property
    def others(self) -> list[Run]:
        """Return the runs that have no device: they prepare, wait for a GPU or need none."""
        with_device = {device.run.pk for device in self.devices if device.run}
        return [run for run in self.runs if run.pk not in with_device]


@dataclass(frozen=True)
class Waiting:
    """A queued run, with the reason why it waits as a sentence."""

    run: Run
    reason: str


@dataclass(frozen=True)
class Overview:
    hosts: list[Host]
    waiting: list[Waiting]


def overview() -> Overview:
    """Return the machines and the first runs in the queue. Costs three queries."""
    rows = Run.objects.select_related("created_by", "project").defer("config", "result")
    running = list(rows.filter(state=State.RUNNING).order_by("id"))
    hosts = _hosts(running)
    queued = list(rows.in_queue()[:MAX_QUEUED])
    waiting = [
        Waiting(run, reason(run, index, hosts, len(running))) for index, run in enumerate(queued)
    ]
    return Overview(hosts, waiting)


def reason_of(run: Run) -> str:
    """Return why a queued run waits, or "" for a run in another state. Costs three queries."""
    if run.state != State.QUEUED:
        return ""
    first = Q(priority__gt=run.priority) | Q(priority=run.priority, pk__lt=run.pk)
    ahead = Run.objects.filter(first, state=State.QUEUED).count()
    running = list(Run.objects.filter(state=State.RUNNING).defer("config", "result"))
    return reason(run, ahead, _hosts(running), len(running))


def reason(run: Run, ahead: int, hosts: Iterable[Host], running: int) -> str:
    """Return the sentence for a queued run with `ahead` runs before it in the queue."""
    reporting = [host for host in hosts if host.reports]
    if settings.LAUNCHER == "ray" and run.message_sent_at is not None:
        return "Waiting for a free node of the Ray cluster."
    if reporting and all(host.problem for host in reporting):
        return f"{reporting[0].name} starts no runs. {reporting[0].problem} The run then starts automatically."
    if others := ahead + running:
        return f"Waiting for {others} other run{'' if others == 1 else 's'}."
    if settings.LAUNCHER == "ray":
        return "The Ray cluster has not accepted the run. It is submitted again automatically."
    if not reporting:
        return (
            "No worker is running. Start one with manage.py local or, on a server, the service "
            "of the workers. The run starts automatically."
        )
    if run.message_sent_at is None:
        return "The message broker is not reachable. The run is sent again automatically."
    return "Waiting for a worker."


def _hosts(running: list[Run]) -> list[Host]:
    """Return the machines that have reported lately or have a run. Costs one query."""
    silent_since = Now() - timedelta(seconds=SILENT_SECONDS)
    machines = Machine.objects.filter(reported_at__gte=silent_since)
    hosts: dict[str, Host] = {}
    for machine in machines:
        hosts[machine.host] = Host(machine.host, machine.slots, True, machine.problem)
        hosts[machine.host].devices = [_device(gpu) for gpu in machine.gpus]
    gpus = {machine.host: machine.gpus for machine in machines}
    for run in running:
        host = hosts.setdefault(run.host, Host(run.host, 0, reports=False))
        host.runs.append(run)
        for gpu, device in zip(gpus.get(run.host, []), host.devices, strict=True):
            if run.has_gpu(gpu):
                device.run = run
    return list(hosts.values())


def _device(gpu: dict[str, Any]) -> Device:
    total, free = gpu.get("total_mb"), gpu.get("free_mb")
    used = total - free if total is not None and free is not None else None
    name = f"GPU {gpu.get('index')}: {gpu.get('name')}"
    return Device(name, gpu.get("use"), gpu.get("temperature"), used, total)
