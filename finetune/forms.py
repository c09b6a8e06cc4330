from typing import Any

from django import forms

from finetune.engines.generation import ALL, NEW
from finetune.evaluation import judges
from finetune.evidence import EXPECTED_GAINS, forecast, share_of_alpha
from finetune.models import (
    ALPHA,
    MARGIN,
    MAX_ALPHA,
    MAX_MARGIN,
    MIN_MARGIN,
    Model,
    with_descendants,
)
from finetune.registry import checked_base
from labeling.models import Project
from reward.forms import (
    OfferField,
    RewardModelChoiceField,
    SnapshotChoiceField,
    offer,
    usable_reward_models,
    usable_snapshots,
)
from reward.models import RewardModel, Snapshot
from reward.references import ReferenceProblem


class ModelChoiceField(OfferField):
    def label_from_instance(self, obj: Any) -> str:
        mark = " (promoted)" if obj.state == Model.State.PROMOTED else ""
        return f"{obj.project}: {obj}{mark}"


def usable_models() -> Any:
    """Return the models of open projects that are not archived.

    They are sorted by project. The promoted model comes first, then the newest models.
    """
    models = Model.objects.filter(project__archived_at=None).select_related("project")
    return models.exclude(state=Model.State.ARCHIVED).order_by("project__name", "-state", "-id")


class GenerateInputs(forms.Form):
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
        help_text="If empty, there is no limit.",
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
        models = usable_models()
        offer(self, "model", models)
        default = models.filter(state=Model.State.PROMOTED).order_by("-id").first()
        self.initial = {"model": getattr(default, "pk", None), **self.initial}

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


class SameProject(forms.Form):
    """A form whose choices must all belong to the same project.

    The project is that of one choice, the anchor. The other fields offer only choices that fit the
    anchor. If the anchor changes, the page reloads the form.
    """

    anchor: str
    others: tuple[str, ...]

    def chosen_anchor(self) -> Any:
        """Return the chosen or preselected anchor, or None."""
        field = self.fields[self.anchor]
        assert isinstance(field, forms.ModelChoiceField) and field.queryset is not None
        value = self.data.get(self.anchor) if self.is_bound else self.initial.get(self.anchor)
        try:
            return field.clean(value)
        except forms.ValidationError:
            return field.queryset.first()

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        anchor = values.get(self.anchor)
        for name in self.others:
            part = values.get(name)
            if anchor and part and part.project_id != anchor.project_id:
                self.add_error(
                    name,
                    f"This belongs to {part.project}, but {anchor} belongs to {anchor.project}.",
                )
        return values


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


class MergeInputs(forms.Form):
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


class EvaluateInputs(SameProject):
    anchor, others = "candidate", ("baseline", "snapshot")

    candidate = ModelChoiceField(
        queryset=Model.objects.none(),
        empty_label=None,
        none_yet="No adapters yet: fine-tune a model first",
        help_text="The adapter or merged model to evaluate.",
    )
    baseline = ModelChoiceField(
        queryset=Model.objects.none(),
        required=False,
        empty_label="The promoted model, or the one that the candidate was made from",
        none_yet="",
        help_text="The baseline answers the same prompts with the same seeds. It must be built on the same "
        "base as the candidate, directly or through merges.",
        error_messages={
            "invalid_choice": "Choose another model of the candidate's project and base, not the "
            "candidate itself."
        },
    )
    snapshot = SnapshotChoiceField(
        queryset=Snapshot.objects.none(),
        required=False,
        empty_label="The snapshot that the candidate was made from",
        help_text="Both models answer the held-out prompts of the snapshot, except those that one of "
        "the models was trained on.",
        error_messages={"invalid_choice": "Choose a snapshot of the candidate's project."},
    )
    judge = forms.ChoiceField(
        help_text="The judge decides which answer is better. A reward model was trained on rankings by the "
        "same reviewers as the candidate, so compare its verdicts with those of people.",
        error_messages={"invalid_choice": "Choose a judge of the candidate's project."},
    )
    comparisons = forms.BooleanField(
        required=False,
        label="Also ask people",
        help_text="For each prompt, a blind comparison of the two answers is queued for review.",
    )
    limit = forms.IntegerField(
        min_value=1,
        required=False,
        label="Maximum number of prompts",
        help_text="This many held-out prompts are drawn at random. If empty, all prompts are used.",
    )
    verdicts_per_prompt = forms.IntegerField(
        min_value=1,
        max_value=9,
        required=False,
        label="People's verdicts per prompt",
        help_text="More prompts with one verdict each give more evidence than fewer prompts with "
        "several. If empty, the number is the project's rankings per task.",
    )
    margin_points = forms.FloatField(
        min_value=100 * MIN_MARGIN,
        max_value=100 * MAX_MARGIN,
        initial=100 * MARGIN,
        required=False,
        label="Margin (points)",
        help_text="The largest loss of win rate that still counts as not worse.",
    )
    alpha_percent = forms.FloatField(
        min_value=0.1,
        max_value=100 * MAX_ALPHA,
        initial=100 * ALPHA,
        required=False,
        label="Error rate (percent)",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name, field in (("margin", "margin_points"), ("alpha", "alpha_percent")):
            if name in self.initial:  # copied from the inputs of another run
                self.initial[field] = round(100 * self.initial[name], 6)
        self.fields[
            "alpha_percent"
        ].help_text = f"Shared by all evaluations of the two models. {outlook()}"
        offer(self, "candidate", usable_models().exclude(parent=None).order_by("-id"))
        if candidate := self.chosen_anchor():
            self._offer_matching(candidate)

    def _offer_matching(self, candidate: Model) -> None:
        project = candidate.project
        family = [model.pk for model in with_descendants([candidate.root()])]
        models = usable_models().filter(project=project, pk__in=family)
        offer(self, "baseline", models.exclude(pk=candidate.pk))
        offer(self, "snapshot", usable_snapshots().filter(project=project))
        judge = self.fields["judge"]
        assert isinstance(judge, forms.ChoiceField)
        judge.choices = judge_choices(project)

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        candidate = values.get("candidate")
        if candidate is None:
            return values
        for name, default in (
            ("baseline", candidate.default_baseline()),
            ("snapshot", candidate.snapshot),
        ):
            if name not in self.errors and not values.get(name):
                values[name] = default
                if default is None:
                    self.add_error(name, f"{candidate} has no {name} of its own: choose one.")
        return values

    def inputs(self) -> dict[str, Any]:
        values = self.cleaned_data
        return {
            "project": values["candidate"].project_id,
            "candidate": values["candidate"].pk,
            "baseline": values["baseline"].pk,
            "snapshot": values["snapshot"].pk,
            "judge": values["judge"],
            "comparisons": values["comparisons"],
            "limit": values["limit"],
            "verdicts_per_prompt": values["verdicts_per_prompt"],
            "margin": (values["margin_points"] or 100 * MARGIN) / 100,
            "alpha": (values["alpha_percent"] or 100 * ALPHA) / 100,
        }


def outlook() -> str:
    """Return the forecast for a first evaluation with the default error rate, as a sentence."""
    forecasts = [forecast(gain, share_of_alpha(ALPHA, 1)) for gain in EXPECTED_GAINS]
    needed = ", ".join(f"{f.median} for {100 * f.gain:.0f} points" for f in forecasts)
    return (
        f"At {100 * ALPHA:.0f}%, half of first evaluations prove a gain after at most this many "
        f"prompts: {needed}."
    )


def judge_choices(project: Project) -> list[tuple[str, str]]:
    """Return the judges that fit the project: its reward models, newest first, then the rules.

    Archived reward models are left out. This takes one query.
    """
    models = RewardModel.objects.filter(project=project, project__archived_at=None)
    learned = map(judges.of_reward_model, models.exclude(state=RewardModel.State.ARCHIVED))
    return [(judge.name, judge.title) for judge in [*learned, *judges.rules(project)]]


class AddModelForm(forms.Form):
    project = forms.ModelChoiceField(queryset=Project.objects.none(), empty_label=None)
    base = forms.CharField(
        max_length=300,
        label="Model",
        help_text="A Hugging Face name such as org/name, optionally with @revision, or a folder "
        "on the training machines.",
    )
    name = forms.CharField(
        max_length=120,
        required=False,
        help_text="If empty, it is the last part of the model's name.",
    )

    def __init__(self, *args: Any, projects: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "project", projects)

    def clean_base(self) -> str:
        try:
            return checked_base(self.cleaned_data["base"])
        except ReferenceProblem as problem:
            raise forms.ValidationError(str(problem)) from None

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        same = Model.objects.filter(
            project=values.get("project"), base=values.get("base", ""), adapter=""
        ).first()
        if same and "base" not in self.errors:
            self.add_error("base", f"{same.project} already has this model, as {same}.")
        return values
