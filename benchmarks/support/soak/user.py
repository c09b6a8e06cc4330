"""The person who starts, cancels and continues the runs of the soak, and what must become of each."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from django.db import InterfaceError, OperationalError

from benchmarks.support.soak.faults import Faults
from benchmarks.support.soak.kinds import SOAK
from benchmarks.support.soak.machine import Machine
from benchmarks.support.soak.recipe import OWN_ERROR
from runs import services
from runs.models import ENDED, Run, State
from runs.supervision.supervisor import forget_connection

UNFINISHED_AT_ONCE = 8
STORAGE_ERRORS = ("No space is left in ", "cannot be written or read: ", "is read-only")
KILLED_ERROR = "The system killed the recipe (SIGKILL)"


@dataclass
class Plan:
    """The actions on one run, and its expected result."""

    config: dict[str, object]
    request_id: UUID
    outcome: str = "succeeds"
    cancel_after: float = float("inf")
    """Seconds from the start to the cancellation."""
    run_id: int = 0
    started_at: float = 0.0
    was_cancelled: bool = False
    continued: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return int(str(self.config["steps"]))


class User:
    """The user, who is called regularly with `step` to look after all runs."""

    def __init__(self, machine: Machine, faults: Faults, dice: random.Random, runs: int):
        self.machine = machine
        self.faults = faults
        self.dice = dice
        self.plans: list[Plan] = []
        self.waiting = [self._plan(number) for number in range(runs)]

    def _plan(self, number: int) -> Plan:
        steps = self.dice.randint(15, 60)
        config: dict[str, object] = {
            "steps": steps,
            "delay": round(self.dice.uniform(0.03, 0.12), 3),
            "ledger": str(self.machine.ledgers),
        }
        plan = Plan(config, uuid4())
        plan.outcome = self.dice.choices(
            ["succeeds", "fails", "is cancelled", "model is missing"], [76, 8, 10, 6]
        )[0]
        if plan.outcome == "fails":
            config["fails_at"] = self.dice.randint(1, steps)
        elif plan.outcome == "is cancelled":
            plan.cancel_after = self.dice.choice([0.0, 0.5, 2.0, 4.0])
        elif plan.outcome == "model is missing":
            config["model"] = str(self.machine.folder / f"model-{number}")
        return plan

    def step(self) -> bool:
        """Start, cancel and continue runs, and return whether all have ended.

        If the database does not respond, this does less, and returns False.
        """
        try:
            self._continue_failed_runs()
            self._cancel_runs()
            while self.waiting and len(self._unfinished()) < UNFINISHED_AT_ONCE:
                self._start(self.waiting[0])
                self.plans.append(self.waiting.pop(0))
            return not self.waiting and not self._unfinished()
        except (OperationalError, InterfaceError) as error:
            forget_connection(error)
            return False

    def _unfinished(self) -> list[Plan]:
        """Return the runs that have not ended, or that will be continued."""
        runs = Run.objects.in_bulk()
        return [
            plan
            for plan in self.plans
            if runs[plan.run_id].state not in ENDED
            or not (plan.complaints or self.is_expected(plan, runs[plan.run_id]))
        ]

    def _start(self, plan: Plan) -> None:
        """Start a run twice, as a double click does, after which its model may be removed."""
        model = Path(str(plan.config.get("model", "")))
        if plan.outcome == "model is missing":
            model.mkdir(exist_ok=True)
        for _ in range(2):
            run = services.start(
                SOAK.name, plan.config, None, inputs={}, request_id=plan.request_id
            )
        plan.run_id, plan.started_at = run.pk, time.monotonic()
        if plan.outcome == "model is missing":
            model.rmdir()

    def _cancel_runs(self) -> None:
        for plan in self.plans:
            if time.monotonic() - plan.started_at >= plan.cancel_after:
                run = Run.objects.get(pk=plan.run_id)
                plan.was_cancelled = (
                    services.cancel(run, None) or run.cancel_requested_at is not None
                )
                plan.cancel_after = float("inf")

    def _continue_failed_runs(self) -> None:
        """Continue the runs that failed because of a fault, as a person does who has read the message."""
        for plan in self.plans:
            run = Run.objects.get(pk=plan.run_id)
            if run.state == State.FAILED and not self.is_expected(plan, run):
                if not self._is_explained(run):
                    plan.complaints.append(run.error)
                elif time.time() < self.faults.storage_until:
                    continue  # the disk is still full
                plan.continued += services.restart(run, None)

    def is_expected(self, plan: Plan, run: Run) -> bool:
        """Return whether the run has the state, message and result that follow from its plan."""
        if plan.was_cancelled and run.state == State.CANCELLED:
            return True
        if plan.outcome == "fails" and run.state == State.FAILED:
            return run.error == OWN_ERROR
        if plan.outcome == "model is missing" and run.state == State.FAILED:
            return run.error.startswith(f"The folder {plan.config['model']} is missing.")
        return plan.outcome in ("succeeds", "is cancelled") and run.state == State.SUCCEEDED

    def _is_explained(self, run: Run) -> bool:
        """Return whether the message of a failed run names the fault that it has met."""
        if any(text in run.error for text in STORAGE_ERRORS):
            ended = run.finished_at
            return ended is not None and ended.timestamp() < self.faults.storage_until + 5
        return run.pk in self.faults.recipes_killed and run.error.startswith(KILLED_ERROR)
