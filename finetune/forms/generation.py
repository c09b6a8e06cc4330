"""The inputs of runs that ask a model for responses."""

from typing import Any

from django import forms

from finetune.engines.generation import ALL, NEW
from finetune.forms.choices import ModelChoiceField, served_models, usable_models
from finetune.models import Model
from reward.forms import offer
from runs.kinds import InputsForm


class GenerateInputs(InputsForm):
    model = ModelChoiceField(
        queryset=Model.objects.none(),
        empty_label=None,
        none_yet="No models yet: add a base model under Models first",
        help_text="The model answers prompts of its own project.",
    )
    prompts = forms.ChoiceField(
        choices=[(NEW, "Those without a task"), (ALL, "All")],
        initial=NEW,
        help_text="Prompts without a task have not been queued for ranking yet.",
    )
    limit = forms.IntegerField(
        min_value=1,
        required=False,
        label="Maximum number of prompts",
        help_text="Leave empty for no limit.",
    )
    tasks = forms.BooleanField(
        required=False,
        initial=True,
        label="Queue the responses for review",
        help_text="Each prompt gets one task. Identical responses count as one, and a prompt with "
        "fewer than two different responses gets no task.",
    )
    rankings_wanted = forms.IntegerField(
        min_value=1,
        max_value=9,
        required=False,
        label="Rankings per task",
        help_text="If empty, the setting of the project applies.",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "model", self.models())
        field = self.fields["model"]
        assert isinstance(field, forms.ModelChoiceField) and field.queryset is not None
        default = field.queryset.filter(state=Model.State.PROMOTED).order_by("-id").first()
        self.initial = {"model": getattr(default, "pk", None), **self.initial}

    def models(self) -> Any:
        """Return the models from which the form offers a choice."""
        return usable_models()

    def inputs(self) -> dict[str, Any]:
        values = self.cleaned_data
        return {
            "project": values["model"].project_id,
            "model": values["model"].pk,
            "prompts": values["prompts"],
            "limit": values["limit"],
            "tasks": values["tasks"],
            "rankings_wanted": values["rankings_wanted"],
        }


class AskInputs(GenerateInputs):
    model = ModelChoiceField(
        queryset=Model.objects.none(),
        empty_label=None,
        none_yet="No models on endpoints yet: add one under Models first",
        help_text="The model answers prompts of its own project. The prompts are sent to the server "
        "of its endpoint.",
    )

    def models(self) -> Any:
        return served_models()
