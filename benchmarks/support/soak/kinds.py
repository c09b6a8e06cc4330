"""The run kind of the soak. Workers import this module too (`celery --include`)."""

import json
from dataclasses import dataclass
from typing import Any

from django.db import connection

from recipes.rundir import RunDir
from recipes.settings import RecipeConfig, option
from runs import kinds
from runs.kinds import RunKind
from runs.models import Run


@dataclass(frozen=True, kw_only=True)
class SoakConfig(RecipeConfig):
    steps: int = option(10, "Number of steps.", min=1, max=10_000)
    delay: float = option(0.05, "Seconds per step.", min=0.0, max=10.0)
    fails_at: int = option(0, "The step at which the recipe reports an error; 0 for none.", min=0)
    model: str = option("", "A folder that the run needs.")
    ledger: str = option("", "The folder of the ledgers.")


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    (run_dir.data / "input.txt").write_text(str(run.pk))
    return {}


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO soak_result (run_id) VALUES (%s)", [run.pk])
    return json.loads((run_dir.output / "count.json").read_text())


SOAK = RunKind(
    name="soak",
    title="Soak",
    description="Counts, for the soak.",
    config_class=SoakConfig,
    module="benchmarks.support.soak.recipe",
    prepare=prepare,
    finish=finish,
    folders=frozenset({"model"}),
)
kinds.register(SOAK)
