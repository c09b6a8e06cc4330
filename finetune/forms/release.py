"""The inputs of runs that push a model to a hub or pull one."""

from typing import Any

from django import forms

from finetune.forms.choices import ModelChoiceField, usable_models
from finetune.models import Model
from labeling.models import Project
from reward.forms import offer
from runs.kinds import InputsForm


class PushInputs(InputsForm):
    model = ModelChoiceField(
        queryset=Model.objects.none(),
        empty_label=None,
        none_yet="No adapters or merged models yet: fine-tune a model first",
        help_text="The adapter or the merged model to push.",
        error_messages={"invalid_choice": "Choose an adapter or a merged model."},
    )
    base = forms.CharField(
        max_length=300,
        required=False,
        label="Base on the hub",
        help_text="The hub name of the base, if the base is a folder of this installation. If empty, it "
        "is the repository from which the base was pulled or to which it was pushed.",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "model", usable_models().exclude(run=None).order_by("-id"))

    def inputs(self) -> dict[str, Any]:
        model = self.cleaned_data["model"]
        base = self.cleaned_data["base"]
        return {"project": model.project_id, "model": model.pk, "base": base}


class PullInputs(InputsForm):
    project = forms.ModelChoiceField(queryset=Project.objects.none(), empty_label=None)
    base = ModelChoiceField(
        queryset=Model.objects.none(),
        required=False,
        empty_label="The one that the adapter names",
        none_yet="",
        help_text="Only for adapters: the model of the project on which the adapter was trained.",
        error_messages={"invalid_choice": "Choose a base or a merged model."},
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "project", Project.objects.filter(archived_at=None).order_by("name"))
        offer(self, "base", usable_models().filter(adapter="").order_by("-id"))

    def inputs(self) -> dict[str, Any]:
        base = self.cleaned_data["base"]
        return {"project": self.cleaned_data["project"].pk, "base": base.pk if base else None}
