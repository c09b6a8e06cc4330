from collections.abc import Iterator
from typing import Any

from django import forms
from django.utils.functional import Promise

from accounts.models import User
from labeling.models import GuidelineVersion, Project, Ranking
from reward.models import RewardModel, Snapshot
from reward.preferences.filters import FilterError, SnapshotFilter
from runs.kinds import InputsForm


class OfferIterator(forms.models.ModelChoiceIterator):
    """The choices of an OfferField. If there are none, it has a hint about the object to create."""

    def __iter__(self) -> Iterator[Any]:
        is_empty = True
        for choice in super().__iter__():
            is_empty = False
            yield choice
        assert isinstance(self.field, OfferField)
        if is_empty:
            yield "", self.field.none_yet


class OfferField(forms.ModelChoiceField):
    """A choice between rows. If there are none, it shows `none_yet`, a hint about what to create."""

    iterator = OfferIterator

    def __init__(self, *args: Any, none_yet: str | Promise, **kwargs: Any):
        self.none_yet = none_yet
        super().__init__(*args, **kwargs)


class SnapshotChoiceField(OfferField):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, none_yet="No snapshots yet: freeze one first", **kwargs)

    def label_from_instance(self, obj: Any) -> str:
        prompts = obj.counts.get("prompts", 0)
        return f"{obj.project}: snapshot {obj.pk}, {prompts} prompts, {obj.rankings} rankings"


def offer(form: forms.Form, name: str, rows: Any) -> None:
    """Set the rows from which a field offers a choice.

    In a form for the inputs of a run, only rows of the form's projects are offered.
    """
    field = form.fields[name]
    assert isinstance(field, forms.ModelChoiceField)
    if isinstance(form, InputsForm) and form.projects is not None:
        own = "pk__in" if rows.model is Project else "project__in"
        rows = rows.filter(**{own: form.projects})
    field.queryset = rows


def usable_snapshots() -> Any:
    return Snapshot.objects.filter(project__archived_at=None).select_related("project")


class RewardInputs(InputsForm):
    snapshot = SnapshotChoiceField(
        queryset=Snapshot.objects.none(),
        empty_label=None,
        help_text="The rankings to learn from, newest first. Held-out prompts are used only for the report.",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "snapshot", usable_snapshots())

    def inputs(self) -> dict[str, Any]:
        return {"snapshot": self.cleaned_data["snapshot"].pk}


class RewardModelChoiceField(OfferField):
    def label_from_instance(self, obj: Any) -> str:
        mark = " (promoted)" if obj.state == RewardModel.State.PROMOTED else ""
        return f"{obj.project}: {obj}{mark}"


def usable_reward_models() -> Any:
    """Return the reward models of open projects that are not archived.

    The promoted models come first, then the newest ones.
    """
    models = RewardModel.objects.filter(project__archived_at=None).select_related("project")
    models = models.exclude(state=RewardModel.State.ARCHIVED)
    return models.order_by("project__name", "-state", "-id")


class ScoreInputs(InputsForm):
    reward_model = RewardModelChoiceField(
        queryset=RewardModel.objects.none(),
        empty_label=None,
        none_yet="No reward models yet: train one first",
        help_text="The reward model scores the responses of its own project. Responses that it has "
        "already scored are skipped.",
    )
    order = forms.BooleanField(
        required=False,
        label="Order the queue",
        help_text="After the scoring, tasks that nobody has started are ordered by how much this model "
        "would learn from ranking them. Priorities are unchanged. You can undo this.",
    )
    random_share = forms.FloatField(
        required=False,
        min_value=0.01,
        max_value=0.9,
        label="Random stream",
        widget=forms.NumberInput({"step": "any", "placeholder": "0.2"}),
        help_text="The share of prompts whose tasks are never ordered, so that evaluations on them are not "
        "biased. Hold out no more than this in snapshots. The share cannot be changed later. If empty, it "
        "is that of the project's existing random stream, or 0.2.",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "reward_model", usable_reward_models())

    def inputs(self) -> dict[str, Any]:
        values = self.cleaned_data
        return {
            "reward_model": values["reward_model"].pk,
            "order": values["order"],
            "random_share": values["random_share"],
        }


class OnnxInputs(InputsForm):
    reward_model = RewardModelChoiceField(
        queryset=RewardModel.objects.none(),
        empty_label=None,
        none_yet="No reward models yet: train one first",
        help_text="The reward model to export. The model itself stays unchanged.",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "reward_model", usable_reward_models())

    def inputs(self) -> dict[str, Any]:
        return {"reward_model": self.cleaned_data["reward_model"].pk}


class SnapshotForm(forms.Form):
    """The filter of a new snapshot of a project."""

    sources = forms.MultipleChoiceField(
        choices=Ranking.Source.choices,
        initial=list(Ranking.Source.values),
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one source of rankings."},
        help_text="Simulated rankings are marked on all pages.",
    )
    guideline_versions = forms.ModelMultipleChoiceField(
        queryset=GuidelineVersion.objects.none(),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="If none is chosen, all rankings are used, including those without a guideline.",
    )
    reviewers = forms.ModelMultipleChoiceField(
        queryset=User.objects.none(),
        required=False,
        widget=forms.SelectMultiple(attrs={"size": 6}),
        help_text="If none is chosen, the rankings of all reviewers are used.",
    )
    since = forms.DateField(
        required=False,
        label="First day",
        widget=forms.DateInput(attrs={"type": "date"}),
    )
    until = forms.DateField(
        required=False,
        label="Last day",
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="This day is included.",
    )
    min_active_seconds = forms.FloatField(
        min_value=0,
        initial=0,
        label="Minimum active time (seconds)",
        help_text="Rankings made in less time are left out. Imported and simulated rankings are not timed, "
        "so they are always used.",
    )
    include_comparisons = forms.BooleanField(
        required=False,
        label="Include blind comparisons",
        help_text="Blind comparisons are made to evaluate models. If models are trained on them, later "
        "evaluations on these prompts are not valid.",
    )
    adjudicated = forms.BooleanField(
        required=False,
        label="Leads' decisions",
        help_text="A lead's decision on a disputed task replaces its rankings.",
    )
    relabelled = forms.BooleanField(
        required=False,
        label="Relabelled tasks",
        help_text="Rankings under a later guideline replace the first rankings of a task. If this is off, "
        "the later rankings are left out, so that no task counts twice.",
    )
    weigh_reviewers = forms.BooleanField(
        required=False,
        label="Weight by reliability",
        help_text="The weight of a ranking depends on its reviewer's agreement with others on the same "
        "tasks: 1 is typical, 0 is chance. This needs tasks that several people have ranked. The accuracy "
        "is weighted too, so compare it only with other models from weighted snapshots.",
    )
    chats = forms.BooleanField(
        required=False,
        label="Include chats without rankings",
        help_text="Chats without rankings are imported prompts with one response and no task. They are "
        "used in supervised fine-tuning (SFT). Other methods and reward models leave them out.",
    )
    test_fraction = forms.FloatField(
        min_value=0,
        max_value=0.9,
        initial=0.2,
        label="Share held out",
        help_text="The share of prompts that are used to evaluate models and not to train them, from 0 to "
        "0.9. All snapshots with the same seed hold out the same prompts.",
    )
    seed = forms.IntegerField(
        min_value=0,
        max_value=2**31 - 1,
        initial=0,
        label="Seed of the split",
        help_text="The seed decides which prompts are held out. Keep the same seed: with another one, "
        "existing models were trained on some of the held-out prompts.",
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any):
        super().__init__(*args, **kwargs)
        versions = GuidelineVersion.objects.filter(guideline__project=project, state="published")
        offer(self, "guideline_versions", versions.select_related("guideline"))
        offer(self, "reviewers", reviewers_of(project))
        if not versions:
            del self.fields["guideline_versions"]

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if not self.errors:
            try:
                self.filter = self._filter(values)
            except FilterError as error:
                for name, sentence in error.errors.items():
                    self.add_error(name, sentence)
        return values

    def _filter(self, values: dict[str, Any]) -> SnapshotFilter:
        arguments: dict[str, Any] = dict(values)
        for name in ("guideline_versions", "reviewers"):
            arguments[name] = tuple(row.pk for row in values.get(name) or ()) or None
        return SnapshotFilter(**arguments)


def reviewers_of(project: Project) -> Any:
    ranked = Ranking.objects.filter(task__project=project).values("reviewer")
    return User.objects.filter(pk__in=ranked).order_by("username")
