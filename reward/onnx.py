"""The kind of run that exports a reward model to ONNX."""

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.urls import reverse

from recipes.rundir import RunDir
from reward.forms import OnnxInputs
from reward.models import RewardModel
from reward.run_files import put_snapshot, read_report, reward_model_of
from reward.settings import OnnxConfig
from runs.kinds import FILES, Config, Inputs, RunKind
from runs.models import Run, State


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"reward_model": reward_model_of(inputs).path}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    """Put the snapshot of the model into the run directory. Its held-out prompts are compared."""
    model = reward_model_of(run.inputs)
    model.folder_to_load()
    return put_snapshot(model.snapshot, run_dir)


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    model, report = reward_model_of(run.inputs), read_report(run_dir)
    names = ("difference", "tolerance", "texts", "longest")
    return {"reward_model": model.pk, **{name: report[name] for name in names}}


def figure(result: dict[str, Any]) -> str:
    return f"scores equal to {result['difference']:.0e}" if "difference" in result else ""


def links(run: Run) -> list[tuple[str, str]]:
    model = RewardModel.objects.filter(pk=run.result.get("reward_model")).first()
    return [(str(model), reverse("reward-model", args=[model.pk]))] if model else []


def exports_of(model: RewardModel) -> QuerySet[Run]:
    """Return the successful exports of a model, newest first."""
    exports = Run.objects.filter(
        kind=ONNX.name, state=State.SUCCEEDED, inputs__reward_model=model.pk
    )
    return exports.order_by("-id")


def command(inputs: Inputs, config: Config) -> list[str]:
    return ["export_onnx", str(inputs["reward_model"])]


ONNX = RunKind(
    name="onnx",
    title="ONNX export",
    description="Exports a reward model to ONNX, so that onnxruntime can score responses without torch.",
    config_class=OnnxConfig,
    module="reward.training.onnx",
    prepare=prepare,
    finish=finish,
    project_of=lambda inputs: reward_model_of(inputs).project_id,
    inputs_form=OnnxInputs,
    from_inputs=from_inputs,
    decided=frozenset({"reward_model"}),
    command=command,
    folders=frozenset({"reward_model"}),
    figure=figure,
    links=links,
    uses_gpu=False,
    group=FILES,
)
