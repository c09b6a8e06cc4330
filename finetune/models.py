from collections.abc import Iterable, Iterator

from django.db import models
from django.db.models import Q

from formatting.numbers import percent, percent_range
from labeling.models import Project, Prompt, Response, Task
from reward.models import RewardModel, Snapshot
from reward.promotion import Promotable, promotion_constraints
from runs import storage
from runs.models import Run


class Model(Promotable):
    """A language model: a base, an adapter, or a merged model, with the run that made it.

    The parent of an adapter is the model that was fine-tuned. The parent of a merged model is the
    adapter that was merged into its base. A merged model is used like a base, and keeps the snapshot
    of its adapter.
    """

    name = models.CharField(max_length=120)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="models")
    base = models.CharField(max_length=300, help_text="repo, repo@revision or a folder.")
    adapter = models.CharField(max_length=500, blank=True, help_text="Folder of the LoRA adapter.")
    run = models.OneToOneField(
        Run, null=True, blank=True, on_delete=models.PROTECT, related_name="model"
    )
    snapshot = models.ForeignKey(
        Snapshot, null=True, blank=True, on_delete=models.PROTECT, related_name="models"
    )
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            *promotion_constraints("model"),
            models.CheckConstraint(
                name="model_adapter_has_a_run",
                condition=Q(adapter="") | Q(run__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def doubts(self) -> list[str]:
        """Return the reasons not to promote the model, each as a sentence.

        A merged model that was never evaluated has the doubts of its adapter, which gives the same
        answers. For such a model this takes three queries, otherwise one.
        """
        if not self.adapter and not self.is_merged:
            return []
        evaluation = self.evaluations.select_related("baseline").order_by("-id").first()
        if evaluation is None and self.is_merged and self.parent:
            return self.parent.doubts()
        if evaluation is None:
            return [
                "It has never been evaluated, so it is unknown whether it is better than its base."
            ]
        return evaluation.doubts()

    @property
    def is_merged(self) -> bool:
        """Return whether the weights contain those of an adapter, which is the parent."""
        return not self.adapter and self.parent_id is not None

    @property
    def kind(self) -> str:
        """Return the kind of the model as a noun, for pages."""
        if self.adapter:
            return "LoRA adapter"
        return "merged model" if self.is_merged else "base model"

    def ancestry(self) -> "Iterator[Model]":
        """Yield the model, its parent, and so on, through any number of merges.

        Each step takes a query, unless the parent is already loaded.
        """
        step: Model | None = self
        while step is not None:
            yield step
            step = step.parent

    def root(self) -> "Model":
        """Return the base at the end of the ancestry."""
        *_, root = self.ancestry()
        return root

    def origin(self) -> "Model | None":
        """Return the model from which the training began, or None for a base.

        The adapter of a merged model gives the same answers, so it is skipped.
        """
        return self.parent.origin() if self.is_merged and self.parent else self.parent

    @property
    def adapter_folder(self) -> str:
        return storage.resolve(self.adapter)

    @property
    def base_folder(self) -> str:
        """Return the folder of the base, or its name on Hugging Face."""
        return storage.resolve(self.base)


def with_descendants(models: Iterable[Model]) -> list[Model]:
    """Return the models and all their descendants, by id. Each generation takes one query."""
    family: dict[int, Model] = {}
    generation = list(models)
    while generation:
        family |= {model.pk: model for model in generation}
        children = Model.objects.filter(parent__in=[model.pk for model in generation])
        generation = list(children.exclude(pk__in=family))
    return [family[pk] for pk in sorted(family)]


class Evaluation(models.Model):
    """The answers of two models to the same held-out prompts, with the same seeds, and the verdicts."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="evaluations")
    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="evaluation")
    candidate = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="evaluations")
    baseline = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    judge = models.CharField(max_length=60, help_text="The judge: a reward model or a rule.")
    reward_model = models.ForeignKey(RewardModel, null=True, blank=True, on_delete=models.PROTECT)
    report = models.JSONField(default=dict, help_text="Win rate, interval, ties, lengths.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.candidate} against {self.baseline}"

    def doubts(self) -> list[str]:
        """Return the reasons not to prefer the candidate, each as a sentence."""
        low, high = self.interval or (0.0, 1.0)
        if high < 0.5:
            return [f"Its last evaluation found it worse than {self.baseline}."]
        if low <= 0.5:
            return [
                f"Its last evaluation is inconclusive: the interval of its win rate against "
                f"{self.baseline}, {percent(low)} to {percent(high)}, includes 50%."
            ]
        return []

    @property
    def interval(self) -> list[float] | None:
        return (self.report.get("win_rate") or {}).get("interval")

    @property
    def win_percent(self) -> str:
        value = (self.report.get("win_rate") or {}).get("value")
        return percent(value)

    @property
    def interval_text(self) -> str:
        return percent_range(self.interval)


class EvaluationItem(models.Model):
    """The two answers to one prompt.

    `verdict` is 1 if the candidate's answer won, 0 if the baseline's won, and ½ for a tie.
    """

    evaluation = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="items")
    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT)
    sample = models.PositiveSmallIntegerField(default=0)
    baseline_text = models.TextField()
    candidate_text = models.TextField()
    baseline_score = models.FloatField(null=True)
    candidate_score = models.FloatField(null=True)
    verdict = models.FloatField()
    task = models.ForeignKey(
        Task,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The blind comparison by people, if one was requested.",
    )
    candidate_response = models.ForeignKey(
        Response,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="The candidate's response among the task's two.",
    )

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint("evaluation", "prompt", "sample", name="evaluation_item_once"),
            models.CheckConstraint(name="verdict_known", condition=Q(verdict__in=[0.0, 0.5, 1.0])),
        ]

    def __str__(self) -> str:
        return f"{self.evaluation}: {self.prompt_id}"
