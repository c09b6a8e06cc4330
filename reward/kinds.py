"""The kind of run that trains a reward model."""

from typing import Any

from django.urls import reverse

from formatting.glossary import label_of
from formatting.numbers import percent
from recipes.rundir import RunDir
from recipes.settings import ConfigError
from reward.evaluation.figures import SHARES, main_figures
from reward.forms import RewardInputs
from reward.models import RewardModel
from reward.references import ReferenceProblem, checked_reference
from reward.run_files import put_snapshot, read_report, snapshot_of
from reward.settings import RewardConfig
from runs import storage
from runs.kinds import Config, Inputs, RunKind, options_of, register
from runs.models import Run


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the base model in its stored form. Raises ConfigError."""
    try:
        return {**config, "base_model": checked_reference(config["base_model"])}
    except ReferenceProblem as problem:
        raise ConfigError({"base_model": str(problem)}) from None


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    return put_snapshot(snapshot_of(run.inputs), run_dir)


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    snapshot, report = snapshot_of(run.inputs), read_report(run_dir)
    model = RewardModel.objects.create(
        run=run,
        name=f"{snapshot.project.slug}-reward-{run.pk}"[:120],
        project=snapshot.project,
        base=run.config["base_model"],
        path=storage.stored(run_dir.output),
        snapshot=snapshot,
        report=report,
    )
    return {"reward_model": model.pk, **main_figures(report)}


def figure(result: dict[str, Any]) -> str:
    value = (result.get("accuracy") or {}).get("value")
    return "" if value is None else f"{percent(value)} {label_of('accuracy')}"


def links(run: Run) -> list[tuple[str, str]]:
    model = RewardModel.objects.filter(run=run).first()
    return [(f"Report of {model}", reverse("reward-model", args=[model.pk]))] if model else []


def command(inputs: Inputs, config: Config) -> list[str]:
    base = storage.resolve(config["base_model"])
    return ["train_reward", *options_of(snapshot=inputs["snapshot"], base=base)]


REWARD = RunKind(
    name="reward",
    title="Reward model",
    description="Learns from rankings to score responses as the reviewers would.",
    config_class=RewardConfig,
    module="reward.training.train",
    prepare=prepare,
    finish=finish,
    project_of=lambda inputs: snapshot_of(inputs).project_id,
    inputs_form=RewardInputs,
    checked=checked,
    command=command,
    arguments=frozenset({"base_model"}),
    folders=frozenset({"base_model"}),
    figure=figure,
    shares=SHARES | {"test_accuracy", "train_agreement"},
    links=links,
    first_batch="reward.training.first_batch",
    multi_gpu=True,
    forecast=True,
)


def register_kinds() -> None:
    register(REWARD)
