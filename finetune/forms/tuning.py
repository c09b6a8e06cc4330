"""The inputs of runs that train or merge an adapter."""

from typing import Any

from finetune.forms.choices import ModelChoiceField, SameProject, usable_models
from finetune.models import Model
from reward.forms import (
    RewardModelChoiceField,
    SnapshotChoiceField,
    offer,
    usable_reward_models,
    usable_snapshots,
)
from reward.models import RewardModel, Snapshot
from runs.kinds import InputsForm


class FinetuneInputs(SameProject):
    anchor = "snapshot"
    others: tuple[str, ...] = ("model",)

    snapshot = SnapshotChoiceField(
        queryset=Snapshot.objects.none(),
        empty_label=None,
        help_text="The rankings to learn from; the newest comes first.",
    )
    model = ModelChoiceField(
        queryset=Model.objects.none(),
        empty_label=None,
        none_yet="No models in this project yet: add one under Models first",
        help_text="The base model for the new adapter, or the adapter to continue from.",
        error_messages={"invalid_choice": "Choose a model of the snapshot's project."},
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "snapshot", usable_snapshots())
        snapshot, models = self.chosen_anchor(), usable_models().order_by("adapter", "-id")
        offer(self, "model", models.filter(project=snapshot.project) if snapshot else models.none())

    def inputs(self) -> dict[str, Any]:
        snapshot, model = self.cleaned_data["snapshot"], self.cleaned_data["model"]
        return {"project": snapshot.project_id, "snapshot": snapshot.pk, "model": model.pk}


class RewardedInputs(FinetuneInputs):
    """The inputs of methods whose samples a reward model scores."""

    others = ("model", "reward_model")

    reward_model = RewardModelChoiceField(
        queryset=RewardModel.objects.none(),
        empty_label=None,
        none_yet="No reward models in this project yet: train one first",
        help_text="The reward model that scores the samples. The promoted one comes first.",
        error_messages={"invalid_choice": "Choose a reward model of the snapshot's project."},
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        snapshot, models = self.chosen_anchor(), usable_reward_models()
        own = models.filter(project=snapshot.project) if snapshot else models.none()
        offer(self, "reward_model", own)

    def inputs(self) -> dict[str, Any]:
        return {**super().inputs(), "reward_model": self.cleaned_data["reward_model"].pk}


class MergeInputs(InputsForm):
    model = ModelChoiceField(
        queryset=Model.objects.none(),
        empty_label=None,
        none_yet="No adapters yet: fine-tune a model first",
        help_text="The adapter to merge. The adapter itself stays unchanged.",
        label="Adapter",
        error_messages={"invalid_choice": "Choose an adapter."},
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "model", usable_models().exclude(adapter="").order_by("-id"))

    def inputs(self) -> dict[str, Any]:
        model = self.cleaned_data["model"]
        return {"project": model.project_id, "model": model.pk}
