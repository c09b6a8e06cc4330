import os
import signal
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from runs import execution
from runs.kinds import CannotRun
from runs.supervision.supervisor import SHUTTING_DOWN


class Command(BaseCommand):
    help = """Execute one queued run on a node of a cluster.

The launcher of TIEBREAK_LAUNCHER=ray submits this command as the job run-RUN-TOKEN. It supervises the
run as a worker does. If the run is no longer queued, or another job was submitted for it since, the
command changes nothing. On SIGTERM, the run writes a checkpoint and returns to the queue.

Status: 0 if the run was executed, whatever its result; 1 if this node cannot execute it; 3 if it no
longer waited for this job."""

    def create_parser(self, *args: Any, **kwargs: Any) -> CommandParser:
        return super().create_parser(*args, formatter_class=RawDescriptionHelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("run", type=int, help="The number of the run.")
        parser.add_argument("token", type=int, help="The fencing token of the submission.")

    def handle(self, *, run: int, token: int, **options: Any) -> None:
        if os.environ.get("TIEBREAK_LOCAL_SERVICES"):
            raise CommandError(
                "DATABASE_URL and REDIS_URL are not set on this node, so the run cannot be found. Set "
                "the variables of a worker in the environment in which the node starts Ray."
            )
        signal.signal(signal.SIGTERM, lambda *_: SHUTTING_DOWN.set())
        try:
            executed = execution.execute_job(run, token)
        except CannotRun as problem:
            raise CommandError(str(problem)) from None
        if not executed:
            self.stderr.write(
                f"Run {run} does not wait for this job any more. Nothing was changed."
            )
            raise SystemExit(3)
