"""The inputs of evaluations and of measurements of judges, and the form of regression sets."""

from typing import Any

from django import forms
from django.db.models import Q

from accounts.models import User
from finetune.command_lines import DEFAULT_PAIRS
from finetune.evaluation import judges
from finetune.evaluation.regression import MOST_CHARACTERS, BadSet, create
from finetune.forms.choices import (
    ModelChoiceField,
    SameProject,
    models_in_use,
    served_models,
    usable_models,
)
from finetune.models import (
    ALPHA,
    MARGIN,
    MAX_ALPHA,
    MAX_MARGIN,
    MAX_REGRESSION_MARGIN,
    MIN_MARGIN,
    MIN_REGRESSION_MARGIN,
    Evaluation,
    Model,
    RegressionSet,
    with_descendants,
)
from finetune.statistics.evidence import EXPECTED_GAINS, ORDER_BLOCK, forecast, share_of_alpha
from labeling.models import Project
from reward.forms import SnapshotChoiceField, offer, usable_snapshots
from reward.models import RewardModel, Snapshot
from runs.kinds import InputsForm


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
        empty_label="The promoted model, or the base of the candidate",
        none_yet="",
        help_text="The baseline answers the same prompts with the same seeds. It must be built on the same "
        "base as the candidate, directly or through merges, or be on an endpoint.",
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
        required=False,
        help_text="The judge decides which answer is better. A reward model was trained on rankings by the "
        "same reviewers as the candidate, so compare its verdicts with those of people.",
        error_messages={"invalid_choice": "Choose a judge of the candidate's project."},
    )
    comparisons = forms.BooleanField(
        required=False,
        label="Also ask people",
        help_text="Blind comparisons of the two answers are queued for review. They stop when the answer "
        "is clear. Without a judge, people are always asked.",
    )
    control = forms.BooleanField(
        required=False,
        label="Let the judge save verdicts",
        help_text="People compare the answers to some of the prompts, the judge those to all of them. "
        "The more the judge agrees with people, the fewer verdicts are needed. A biased judge cannot "
        "change the result.",
    )
    order = forms.ChoiceField(
        choices=Evaluation.Order.choices,
        required=False,
        label="Order of prompts",
        help_text=f"The judge orders the prompts within random blocks of {ORDER_BLOCK}. The verdicts on a block count "
        "once it is complete, so the order cannot change the conclusion.",
    )
    most_verdicts = forms.IntegerField(
        min_value=1,
        required=False,
        label="Maximum number of people's verdicts",
        help_text="If empty, people compare the answers to all prompts, or to a quarter of them if the "
        "judge saves verdicts.",
    )
    regression = forms.BooleanField(
        required=False,
        initial=True,
        label="Use the regression set",
        help_text="Both models also answer the prompts of the project's newest regression set, if it has "
        "one. The candidate must not be worse on them.",
    )
    question = forms.ChoiceField(
        choices=Evaluation.Question.choices,
        initial=Evaluation.Question.THESE,
        required=False,
        label="Conclusion about",
        help_text="Reviewers like them: the model is promoted only if an interval for reviewers in "
        "general is also above 50%. With few reviewers, this interval is wide.",
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
        ].help_text = f"Shared by all evaluations of the candidate. {outlook()}"
        offer(self, "candidate", usable_models().exclude(parent=None).order_by("-id"))
        if candidate := self.chosen_anchor():
            self._offer_matching(candidate)

    def _offer_matching(self, candidate: Model) -> None:
        project = candidate.project
        family = [model.pk for model in with_descendants([candidate.root()])]
        models = models_in_use().filter(project=project)
        models = models.filter(Q(pk__in=family) | ~Q(endpoint=""))
        offer(self, "baseline", models.exclude(pk=candidate.pk))
        offer(self, "snapshot", usable_snapshots().filter(project=project))
        judge = self.fields["judge"]
        assert isinstance(judge, forms.ChoiceField)
        judge.choices = [*judge_choices(project), ("", "None: only people judge")]

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
        values["comparisons"] = values.get("comparisons") or not values.get("judge")
        if values.get("control") and not values.get("judge"):
            self.add_error("control", "Choose a judge that saves verdicts.")
        elif values.get("control") and not values["comparisons"]:
            self.add_error("control", "A judge can save verdicts only if people are asked too.")
        if values.get("order") and values.get("control"):
            self.add_error("order", "A judge that saves verdicts cannot also order the prompts.")
        elif values.get("order") and not (values.get("judge") and values["comparisons"]):
            self.add_error("order", "Choose a judge, and ask people too.")
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
            "control": values["control"],
            "order": values["order"],
            "most_verdicts": values["most_verdicts"],
            "regression": values["regression"],
            "question": values["question"] or Evaluation.Question.THESE,
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
    """Return the judges that fit the project: its reward models, its models on endpoints, the rules.

    Archived models are left out. This takes two queries, and one for each model on an endpoint.
    """
    models = RewardModel.objects.filter(project=project, project__archived_at=None)
    learned = map(judges.of_reward_model, models.exclude(state=RewardModel.State.ARCHIVED))
    llms = map(judges.of_llm, served_models().filter(project=project))
    return [(judge.name, judge.label) for judge in [*learned, *llms, *judges.rules(project)]]


class MeasureJudgeInputs(InputsForm):
    model = ModelChoiceField(
        queryset=Model.objects.none(),
        empty_label=None,
        none_yet="No models on endpoints yet: add one under Models first",
        help_text="The LLM judge. It gets the published guideline of its project as instructions.",
        label="Judge",
    )
    limit = forms.IntegerField(
        min_value=2,
        max_value=10_000,
        initial=DEFAULT_PAIRS,
        label="Maximum number of pairs",
        help_text="Each pair is judged in both orders, so it takes two requests. The decisions of leads "
        "on disputed tasks come first.",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "model", served_models())

    def inputs(self) -> dict[str, Any]:
        model = self.cleaned_data["model"]
        return {
            "project": model.project_id,
            "model": model.pk,
            "limit": self.cleaned_data["limit"],
        }


class RegressionSetForm(forms.Form):
    text = forms.CharField(
        label="Prompts",
        max_length=MOST_CHARACTERS,
        widget=forms.Textarea(attrs={"rows": 12, "spellcheck": "false"}),
    )
    margin_points = forms.FloatField(
        min_value=100 * MIN_REGRESSION_MARGIN,
        max_value=100 * MAX_REGRESSION_MARGIN,
        label="Margin (points)",
        help_text="The largest loss of win rate on this set that still counts as not worse.",
    )

    def save(self, project: Project, by: User) -> RegressionSet | None:
        """Return the new version, or None after adding an error to the form."""
        values = self.cleaned_data
        try:
            return create(
                project=project, text=values["text"], margin=values["margin_points"] / 100, by=by
            )
        except BadSet as problem:
            self.add_error("text", str(problem))
            return None
