"""The test kind of run. Workers import this module too (`--include`)."""

import json
from dataclasses import dataclass
from typing import Any

from django import forms
from django.db import OperationalError

from recipes.presets import QUICK_LOOK, SMALL_GPU
from recipes.rundir import RunDir
from recipes.settings import RecipeConfig, option
from runs import kinds
from runs.kinds import CannotRun, InputsForm, RunKind
from runs.models import Run

TROUBLES = (
    "none", "error", "silent", "traceback", "memory", "segfault", "deaf", "grandchild",
    "no output", "again", "stopped behind a launcher",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CountingConfig(RecipeConfig):
    preset_values = {QUICK_LOOK: {"total": 2}, SMALL_GPU: {"checkpoint_every": 1, "loud": True}}

    total: int = option(5, "Number of steps to count.", min=1, max=100_000)
    checkpoint_every: int = option(2, "Steps between two checkpoints.", min=1, max=1000)
    delay: float = option(0.0, "Seconds a step takes.", min=0.0, max=10.0, advanced=True)
    trouble: str = option("none", "How to misbehave.", choices=TROUBLES, advanced=True)
    at: int = option(3, "The step at which to misbehave.", min=1, advanced=True)
    loud: bool = option(False, "Whether to say more.", advanced=True)
    word: str = option("", "Decided by the inputs.")

    def conflicts(self) -> dict[str, str]:
        if self.checkpoint_every > self.total:
            return {"checkpoint_every": "There would be no checkpoint at all."}
        return {}

    def unused(self) -> dict[str, str]:
        return {"at": "It has no effect without trouble."} if self.trouble == "none" else {}


class CountingInputs(InputsForm):
    word = forms.CharField(help_text="A word.")

    def inputs(self) -> dict[str, Any]:
        return {"word": self.cleaned_data["word"]}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    if run.inputs.get("word") == "unpreparable":
        raise CannotRun("The snapshot's file is gone.")
    if run.inputs.get("word") == "bug":
        raise KeyError("oops")
    if run.inputs.get("word") == "long outage" or (
        run.inputs.get("word") == "outage" and run.attempt == 1
    ):
        raise OperationalError("connection refused")
    assert not list(run_dir.data.iterdir())
    (run_dir.data / "words.txt").write_text(run.inputs["word"])
    return {"letters": len(run.inputs["word"])}


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    if run.inputs.get("word") == "unfinishable":
        Run.objects.filter(pk=run.pk).update(title="half written")
        raise ValueError("the report has no accuracy")
    return {"accuracy": 0.75, **json.loads((run_dir.output / "count.json").read_text())}


def decide(inputs: dict[str, Any]) -> dict[str, Any]:
    if inputs.get("word") == "refused":
        raise CannotRun("This word cannot be counted with.")
    return {"word": inputs.get("word", "")}


COUNTING = RunKind(
    name="counting",
    title="Counting",
    description="Counts, for the tests.",
    config_class=CountingConfig,
    module="tests.runs.counting",
    inputs_form=CountingInputs,
    prepare=prepare,
    finish=finish,
    from_inputs=decide,
    first_batch="tests.runs.first_batch",
    command=lambda inputs, config: ["count", inputs["word"]],
    decided=frozenset({"word"}),
    figure=lambda result: f"{result['accuracy']:.0%}" if "accuracy" in result else "",
)
kinds.register(COUNTING)
