import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from django.db import models
from django.db.models import Q

from finetune.evidence import Conclusion, Evidence, evidence_of, share_of_alpha, units_of
from formatting.numbers import percent, percent_range
from labeling.models import Project, Prompt, Ranking, Response, Task
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
        """Return the reasons not to promote it, each as a sentence.

        An adapter needs an evaluation against the promoted model that meets the project's policy, or
        against its origin if no model is promoted. One such evaluation is enough, because all of them
        share one error rate, unless another proves the opposite. A merged model without evaluations
        of its own has the doubts of its adapter. Costs two queries, or more for merged models, and
        three per evaluation.
        """
        if not self.adapter and not self.is_merged:
            return []
        promoted = self.project.models.filter(state=self.State.PROMOTED).exclude(pk=self.pk).first()
        if promoted and promoted.gives_the_answers_of(self):
            return []
        baseline = promoted or self.origin()
        finished = self.evaluations.filter(baseline=baseline).exclude(report={})
        evaluations = list(finished.select_related("project", "baseline").order_by("-id"))
        if not evaluations and self.is_merged and self.parent:
            return self.parent.doubts()
        if not evaluations:
            role = "the promoted model" if promoted else "the model that it was made from"
            return [f"It has never been evaluated against {baseline}, {role}."]
        opposed = [doubt for evaluation in evaluations for doubt in evaluation.proofs_against()]
        if opposed:
            return opposed
        doubts = [evaluation.doubts() for evaluation in evaluations]
        return [] if [] in doubts else doubts[0]

    def gives_the_answers_of(self, other: "Model") -> bool:
        """Return whether one of the two models is the other one, merged into its base."""
        return (self.is_merged and self.parent_id == other.pk) or (
            other.is_merged and other.parent_id == self.pk
        )

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

    def default_baseline(self) -> "Model | None":
        """Return the model to compare it with: the promoted one of its project, or its origin.

        A promoted model on another base cannot be compared, so the origin is used. Costs a query per
        step of both ancestries.
        """
        promoted = self.project.models.filter(state=self.State.PROMOTED).exclude(pk=self.pk).first()
        if promoted and promoted.root().base == self.root().base:
            return promoted
        return self.origin()

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


ALPHA, MAX_ALPHA = 0.05, 0.1
MARGIN, MIN_MARGIN, MAX_MARGIN = 0.05, 0.01, 0.2


@dataclass(frozen=True)
class BlindVerdict:
    """A person's current verdict on a prompt, in the order of the reviewers' first verdicts."""

    prompt: int
    value: float
    simulated: bool


class Evaluation(models.Model):
    """The answers of two models to the same held-out prompts, with the same seeds, and the verdicts.

    It is registered before its run starts to generate answers. The run stores the answers, the
    judge's verdicts and `attempt` together; after that, a trigger refuses changes of the registered
    fields. Evaluations made before registrations existed have no `alpha`, and prove nothing.
    """

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="evaluations")
    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="evaluation")
    candidate = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="evaluations")
    baseline = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    judge = models.CharField(max_length=60, help_text="The judge: a reward model or a rule.")
    reward_model = models.ForeignKey(RewardModel, null=True, blank=True, on_delete=models.PROTECT)
    alpha = models.FloatField(
        null=True,
        blank=True,
        help_text="Error rate that all evaluations of the two models share.",
    )
    margin = models.FloatField(
        null=True,
        blank=True,
        help_text="Largest loss of win rate that still counts as not worse.",
    )
    sample_seed = models.BigIntegerField(
        null=True, blank=True, help_text="Seed of the random sample of held-out prompts."
    )
    prompts = models.JSONField(
        default=list, blank=True, help_text="Ids of the registered prompts, in random order."
    )
    verdicts_per_prompt = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="People's verdicts of a prompt that count, together one unit.",
    )
    attempt = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="Its number among the evaluations of the two models with verdicts, from 1.",
    )
    report = models.JSONField(default=dict, help_text="Win rate, interval, ties, lengths.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                "candidate", "baseline", "attempt", name="evaluation_attempt_once"
            ),
            models.CheckConstraint(
                name="evaluation_alpha", condition=Q(alpha__gt=0, alpha__lte=MAX_ALPHA)
            ),
            models.CheckConstraint(
                name="evaluation_margin",
                condition=Q(margin__gte=MIN_MARGIN, margin__lte=MAX_MARGIN),
            ),
            models.CheckConstraint(
                name="evaluation_verdicts_per_prompt",
                condition=Q(verdicts_per_prompt__gte=1, verdicts_per_prompt__lte=9),
            ),
            models.CheckConstraint(
                name="evaluation_attempt",
                condition=Q(attempt=None) | Q(attempt__gte=1, alpha__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.candidate} against {self.baseline}"

    @property
    def is_registered(self) -> bool:
        return self.alpha is not None

    @property
    def own_alpha(self) -> float | None:
        """Return the error rate of this attempt, or None without a registration or a verdict."""
        if self.alpha is None or self.attempt is None:
            return None
        return share_of_alpha(self.alpha, self.attempt)

    def evidence_of(self, verdicts: Iterable[tuple[Hashable, float]]) -> Evidence | None:
        """Return the evidence of (prompt, verdict) rows; None without an error rate."""
        if self.own_alpha is None or self.margin is None:
            return None
        return evidence_of(units_of(verdicts), alpha=self.own_alpha, margin=self.margin)

    def judged(self) -> Evidence | None:
        """Return the evidence of the judge's verdicts, in the registered random order. One query."""
        order = {prompt: index for index, prompt in enumerate(self.prompts)}
        rows = list(self.items.values_list("prompt_id", "verdict"))
        rows.sort(key=lambda row: order.get(row[0], math.inf))
        return self.evidence_of(rows)

    def blind_verdicts(self) -> list[BlindVerdict]:
        """Return the current verdicts of the blind comparisons of prompts in use. Two queries.

        A revised verdict keeps the place of the reviewer's first one.
        """
        candidates = dict(
            self.items.exclude(task=None).values_list("task_id", "candidate_response_id")
        )
        rankings = Ranking.objects.filter(task__in=candidates, task__inactive=False)
        first: dict[tuple[int, int], int] = {}
        current = []
        for ranking in rankings.select_related("task", "reviewer").order_by("id"):
            first.setdefault((ranking.task_id, ranking.reviewer_id), ranking.pk)
            if ranking.superseded_at is None and sum(map(len, ranking.tiers)) == 2:
                current.append(ranking)
        current.sort(key=lambda ranking: first[ranking.task_id, ranking.reviewer_id])
        return [
            BlindVerdict(
                prompt=ranking.task.prompt_id,
                value=verdict_of(ranking.tiers, candidates[ranking.task_id]),
                simulated=ranking.source == Ranking.Source.SIMULATION or ranking.reviewer.simulated,
            )
            for ranking in current
        ]

    def people(self, verdicts: Iterable[BlindVerdict] | None = None) -> Evidence | None:
        """Return the evidence of people's verdicts, or None without a comparison that is complete.

        A prompt counts once it has the registered number of verdicts, and later ones do not change
        it. Verdicts of programs count only in a project whose reviewers are all simulated. Costs the
        queries of `blind_verdicts` unless its result is given.
        """
        if self.verdicts_per_prompt is None:
            return None
        by_prompt: dict[int, list[float]] = {}
        complete: list[int] = []
        for verdict in self.blind_verdicts() if verdicts is None else verdicts:
            values = by_prompt.setdefault(verdict.prompt, [])
            if verdict.simulated and not self.project.simulated:
                continue
            if len(values) < self.verdicts_per_prompt:
                values.append(verdict.value)
                if len(values) == self.verdicts_per_prompt:
                    complete.append(verdict.prompt)
        rows = [(prompt, value) for prompt in complete for value in by_prompt[prompt]]
        return self.evidence_of(rows) if rows else None

    def conclusions(self) -> str:
        """Return what people's and the judge's verdicts prove, for a table. Three queries."""
        sources = (("people", self.people()), ("judge", self.judged()))
        return "; ".join(f"{who}: {e.conclusion}" for who, e in sources if e is not None) or "–"

    def proofs_against(self) -> list[str]:
        """Return a sentence for each source of verdicts that proves the candidate worse.

        The judge counts under each policy. Three queries.
        """
        return [
            f"Evaluation {self.pk} proves it worse than {self.baseline}, by {source}."
            for source, evidence in (("people", self.people()), ("its judge", self.judged()))
            if evidence is not None and evidence.conclusion is Conclusion.WORSE
        ]

    def doubts(self) -> list[str]:
        """Return the reasons why it does not meet the project's policy, each as a sentence.

        Three queries.
        """
        if not self.is_registered:
            return [
                f"Evaluation {self.pk} against {self.baseline} was not registered before it started, "
                "so it proves nothing. Evaluate the model again."
            ]
        people = self.people()
        sources = [people]
        if self.project.promotion_policy == Project.Promotion.JUDGE:
            sources.append(self.judged())
        counted = [evidence for evidence in sources if evidence is not None]
        if any(evidence.conclusion is Conclusion.BETTER for evidence in counted):
            return []
        if not counted:
            return [
                f"{self.project} needs people's verdicts, and evaluation {self.pk} against "
                f"{self.baseline} has none. Rank its blind comparisons, or evaluate the model again "
                "and ask people."
            ]
        evidence = counted[0]
        low_high = percent_range(evidence.interval)
        return [
            f"Evaluation {self.pk} does not prove it better than {self.baseline}: after "
            f"{len(evidence.units)} prompts, its win rate is between {low_high.replace(' to ', ' and ')}."
        ]

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


def verdict_of(tiers: list[list[int]], candidate: int) -> float:
    """Return 1, ½ or 0 for the candidate's response from a ranking of two responses."""
    if len(tiers) == 1:
        return 0.5
    return 1.0 if candidate in tiers[0] else 0.0
