"""The form that adds a base model or a model on an endpoint to a project."""

from typing import Any

from django import forms

from accounts.models import User
from finetune.endpoints import EndpointProblem
from finetune.models import Model
from finetune.registry import add_base, add_served, checked_base, checked_served, declared_endpoints
from labeling.models import Project
from reward.forms import offer
from reward.references import ReferenceProblem


class AddModelForm(forms.Form):
    project = forms.ModelChoiceField(queryset=Project.objects.none(), empty_label=None)
    endpoint = forms.ChoiceField(
        required=False,
        help_text="An OpenAI-compatible server that the operator has declared. Its models can answer "
        "prompts and judge, but cannot be fine-tuned or promoted.",
    )
    base = forms.CharField(
        max_length=300,
        label="Model",
        help_text="A Hugging Face name such as org/name, optionally with @revision, or a folder "
        "on the training machines. On an endpoint, the name of the model there.",
    )
    name = forms.CharField(
        max_length=120,
        required=False,
        help_text="If empty, it is the last part of the model's name.",
    )

    def __init__(self, *args: Any, projects: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "project", projects)
        try:
            names = list(declared_endpoints())
        except EndpointProblem:  # `manage.py check` reports it
            names = []
        if not names:
            del self.fields["endpoint"]
            return
        choice = self.fields["endpoint"]
        assert isinstance(choice, forms.ChoiceField)
        choice.choices = [("", "None: the weights are loaded here"), *((n, n) for n in names)]

    def clean_base(self) -> str:
        base, endpoint = self.cleaned_data["base"], self.cleaned_data.get("endpoint", "")
        try:
            if endpoint:
                checked_served(endpoint, base)
                return base
            return checked_base(base)
        except (ReferenceProblem, EndpointProblem) as problem:
            raise forms.ValidationError(str(problem)) from None

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        same = Model.objects.filter(
            project=values.get("project"),
            base=values.get("base", ""),
            adapter="",
            endpoint=values.get("endpoint", ""),
        ).first()
        if same and "base" not in self.errors:
            self.add_error("base", f"{same.project} already has this model, as {same}.")
        return values

    def save(self, by: User) -> Model:
        """Add the model to its project, and return it."""
        values = dict(self.cleaned_data)
        endpoint = values.pop("endpoint", "")
        if not endpoint:
            return add_base(**values, by=by)[0]
        model = values.pop("base")
        return add_served(**values, endpoint=endpoint, model=model, by=by)[0]
