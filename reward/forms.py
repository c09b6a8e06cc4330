from collections.abc import Iterator
from typing import Any

from django import forms

from accounts.models import User
from labeling.models import GuidelineVersion, Project, Ranking
from reward.models import RewardModel, Snapshot
from reward.preferences.filters import FilterError, SnapshotFilter


class OfferIterator(forms.models.ModelChoiceIterator):
    """Its choices, or one that says what to create first."""

    def __iter__(self) -> Iterator[Any]:
        offered = False
        for choice in super().__iter__():
            offered = True
            yield choice
        assert isinstance(self.field, OfferField)
        if not offered:
            yield "", self.field.none_yet


class OfferField(forms.ModelChoiceField):
    """A choice among rows. `none_yet` says what to create first where there is nothing to choose."""

    iterator = OfferIterator

    def __init__(self, *args: Any, none_yet: str, **kwargs: Any):
        self.none_yet = none_yet
        super().__init__(*args, **kwargs)


class SnapshotChoiceField(OfferField):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, none_yet="No snapshots yet: freeze one first", **kwargs)

    def label_from_instance(self, obj: Any) -> str:
        prompts = obj.counts.get("prompts", 0)
        return f"{obj.project}: snapshot {obj.pk}, {prompts} prompts, {obj.rankings} rankings"


def offer(form: forms.Form, name: str, rows: Any) -> None:
    """Let a field choose among these rows."""
    field = form.fields[name]
    assert isinstance(field, forms.ModelChoiceField)
    field.queryset = rows


def usable_snapshots() -> Any:
    return Snapshot.objects.filter(project__archived_at=None).select_related("project")


class RewardInputs(forms.Form):
    snapshot = SnapshotChoiceField(
        queryset=Snapshot.objects.none(),
        empty_label=None,
        help_text="The rankings to learn from; the newest comes first. Its test prompts are not "
        "trained on: the report is made from them.",
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
    """Not archived, in open projects; the promoted one of a project first, then the newest."""
    models = RewardModel.objects.filter(project__archived_at=None).select_related("project")
    models = models.exclude(state=RewardModel.State.ARCHIVED)
    return models.order_by("project__name", "-state", "-id")


class ScoreInputs(forms.Form):
    reward_model = RewardModelChoiceField(
        queryset=RewardModel.objects.none(),
        empty_label=None,
        none_yet="No reward models yet: train one first",
        help_text="Who scores, and with it whose project's responses are scored. Those it has "
        "scored before are left out.",
    )
    order = forms.BooleanField(
        required=False,
        label="Put the queue in order",
        help_text="Afterwards, tasks that nobody has begun come in the order of what ranking them "
        "would teach this model. Priorities stay as they are, and it can be taken back.",
    )
    random_share = forms.FloatField(
        required=False,
        min_value=0.01,
        max_value=0.9,
        label="Share left random",
        widget=forms.NumberInput({"step": "any", "placeholder": "0.2"}),
        help_text="Prompts whose tasks no model ever puts in order, so that models can be judged "
        "by them; hold out no more than this in snapshots. It is fixed the first time. Empty: the "
        "project's own, or 0.2.",
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


class SnapshotForm(forms.Form):
    """The filter of a new snapshot of one project."""

    sources = forms.MultipleChoiceField(
        choices=Ranking.Source.choices,
        initial=list(Ranking.Source.values),
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one source of rankings."},
        help_text="Simulated rankings are marked wherever they are shown.",
    )
    guideline_versions = forms.ModelMultipleChoiceField(
        queryset=GuidelineVersion.objects.none(),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None chosen means all, and rankings made under no guideline too.",
    )
    reviewers = forms.ModelMultipleChoiceField(
        queryset=User.objects.none(),
        required=False,
        widget=forms.SelectMultiple(attrs={"size": 6}),
        help_text="None chosen means all.",
    )
    since = forms.DateField(
        required=False,
        label="From day",
        widget=forms.DateInput(attrs={"type": "date"}),
    )
    until = forms.DateField(
        required=False,
        label="To day",
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="This day included.",
    )
    min_active_seconds = forms.FloatField(
        min_value=0,
        initial=0,
        label="Shortest active time (seconds)",
        help_text="Leaves out rankings that a reviewer clicked through. Imports and simulations "
        "are not timed, so they stay.",
    )
    include_comparisons = forms.BooleanField(
        required=False,
        label="Blind comparisons too",
        help_text="They were made to evaluate models. Training on them makes later evaluations "
        "on these prompts worthless.",
    )
    adjudicated = forms.BooleanField(
        required=False,
        label="Outcomes of disputes",
        help_text="What a lead decided about a disputed task stands in for its rankings.",
    )
    relabelled = forms.BooleanField(
        required=False,
        label="Tasks ranked again",
        help_text="What was ranked again under a later guideline stands in for the first rankings. "
        "Otherwise it is left out, so that no task counts twice.",
    )
    weigh_reviewers = forms.BooleanField(
        required=False,
        label="Weigh by reliability",
        help_text="A ranking weighs more the better its reviewer agrees with others on the same "
        "tasks: 1 is typical, 0 is chance. Needs tasks that several people ranked. Accuracy is "
        "weighed too, so compare it only with that of models from weighed snapshots.",
    )
    test_fraction = forms.FloatField(
        min_value=0,
        max_value=0.9,
        initial=0.2,
        label="Share held out",
        help_text="Prompts that nothing is trained on, so that models can be judged. A prompt "
        "falls on the same side in every snapshot with the same seed.",
    )
    seed = forms.IntegerField(
        min_value=0,
        max_value=2**31 - 1,
        initial=0,
        label="Seed of the split",
        help_text="Keep it: with another seed, old models have seen your new test prompts.",
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
        chosen: dict[str, Any] = dict(values)
        for name in ("guideline_versions", "reviewers"):
            chosen[name] = tuple(row.pk for row in values.get(name) or ()) or None
        return SnapshotFilter(**chosen)


def reviewers_of(project: Project) -> Any:
    ranked = Ranking.objects.filter(task__project=project).values("reviewer")
    return User.objects.filter(pk__in=ranked).order_by("username")
