"""Evaluations of a model against a baseline: the registration, the verdicts and what they prove."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
from django.db import models
from django.db.models import Q
from django.db.models.functions import Length

from finetune.models.agreements import JudgeAgreement
from finetune.models.doubts import LLM, Sources, doubts_about_win
from finetune.models.language_models import Model
from finetune.models.regression import RegressionSet
from finetune.statistics.evidence import (
    AskedPrompt,
    Conclusion,
    Evidence,
    JudgedPrompt,
    complete,
    evidence_of,
    excess_of_prompts,
    in_registered_order,
    judge_value,
    share_of_alpha,
    units_of,
)
from finetune.statistics.length_control import Item, LengthControlled, controlled_by_source
from finetune.statistics.regression import RegressionResult, regression_result, values_of
from finetune.statistics.reviewer_effects import GeneralRate, general_rate
from formatting.numbers import percent, percent_range
from labeling.models import Project, Prompt, Ranking, Response, Task
from reward.models import RewardModel
from runs.models import Run

ALPHA, MAX_ALPHA = 0.05, 0.1
MARGIN, MIN_MARGIN, MAX_MARGIN = 0.05, 0.01, 0.2


@dataclass(frozen=True)
class BlindVerdict:
    """A person's current verdict on a prompt, in the order of the reviewers' first verdicts."""

    prompt: int
    value: float
    simulated: bool
    reviewer: int
    guideline_version: int | None
    created_at: datetime
    withdrawn: bool = False


class Evaluation(models.Model):
    """The answers of two models to the same held-out prompts, with the same seeds, and the verdicts.

    It is registered before its run starts to generate answers. The run stores the answers, the
    judge's verdicts and `attempt` together; after that, a trigger refuses changes of the registered
    fields. Evaluations made before registrations existed have no `alpha`, and prove nothing.
    """

    class Question(models.TextChoices):
        THESE = "these", "These reviewers"
        LIKE_THEM = "like them", "Reviewers like them"

    class Order(models.TextChoices):
        RANDOM = "", "Random"
        UNCERTAIN = "uncertain", "Judge least certain first"
        CERTAIN = "certain", "Judge most certain first"

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="evaluations")
    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="evaluation")
    candidate = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="evaluations")
    baseline = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="+")
    judge = models.CharField(
        max_length=60,
        blank=True,
        help_text="The judge: a reward model, an LLM judge or a rule. Empty if only people judge.",
    )
    reward_model = models.ForeignKey(RewardModel, null=True, blank=True, on_delete=models.PROTECT)
    alpha = models.FloatField(
        null=True,
        blank=True,
        help_text="Error rate that all evaluations of the candidate share.",
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
    asks_people = models.BooleanField(
        default=False, help_text="Whether blind comparisons are queued for reviewers."
    )
    judge_controls = models.BooleanField(
        default=False,
        help_text="Whether the judge is a control variate of people's verdicts, which saves verdicts.",
    )
    judge_order = models.CharField(
        max_length=10,
        blank=True,
        choices=Order,
        default=Order.RANDOM,
        help_text="Which prompts of a random block people get first, by the judge's certainty.",
    )
    most_verdicts = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Most verdicts that people are asked for. Empty for all prompts.",
    )
    question = models.CharField(
        max_length=10,
        choices=Question,
        default=Question.THESE,
        help_text="The reviewers that the conclusion is about.",
    )
    regression_set = models.ForeignKey(
        RegressionSet,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="evaluations",
        help_text="The version of the regression set on which the candidate must not be worse.",
    )
    stopped_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="When the open comparisons were taken off the queue, because the answer was clear.",
    )
    attempt = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="Its number among the evaluations of the candidate with verdicts, from 1.",
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
                name="evaluation_most_verdicts", condition=Q(most_verdicts__gte=1)
            ),
            models.CheckConstraint(
                name="evaluation_question", condition=Q(question__in=["these", "like them"])
            ),
            models.CheckConstraint(
                name="evaluation_control_has_a_judge",
                condition=Q(judge_controls=False) | Q(asks_people=True) & ~Q(judge=""),
            ),
            models.CheckConstraint(
                name="evaluation_order_has_a_judge",
                condition=Q(judge_order="")
                | Q(
                    judge_order__in=["uncertain", "certain"], asks_people=True, judge_controls=False
                )
                & ~Q(judge=""),
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

    def evidence_of(
        self, verdicts: Iterable[tuple[Hashable, float]], excess: np.ndarray | None = None
    ) -> Evidence | None:
        """Return the evidence of (prompt, verdict) rows; None without an error rate."""
        if self.own_alpha is None or self.margin is None:
            return None
        units = units_of(verdicts)
        return evidence_of(units, alpha=self.own_alpha, margin=self.margin, excess=excess)

    def judged(self) -> Evidence | None:
        """Return the evidence of the judge's verdicts, in the registered random order, in one query.

        It is None without a judge.
        """
        if not self.judge:
            return None
        order = {prompt: index for index, prompt in enumerate(self.prompts)}
        items = self.items.values_list("prompt_id", "verdict")
        rows = [(prompt, verdict) for prompt, verdict in items if verdict is not None]
        rows.sort(key=lambda row: order.get(row[0], math.inf))
        return self.evidence_of(rows)

    def blind_verdicts(self) -> list[BlindVerdict]:
        """Return the current verdicts of the blind comparisons, in two queries.

        A revised verdict keeps the place of the reviewer's first one. Verdicts on a prompt that was
        withdrawn later are included, because otherwise somebody could withdraw the prompts on which the
        candidate lost.
        """
        candidates = dict(
            self.items.exclude(task=None).values_list("task_id", "candidate_response_id")
        )
        rankings = Ranking.objects.filter(task__in=candidates)
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
                reviewer=ranking.reviewer_id,
                guideline_version=ranking.guideline_version_id,
                created_at=ranking.created_at,
                withdrawn=ranking.task.inactive,
            )
            for ranking in current
        ]

    def people(self, verdicts: Iterable[BlindVerdict] | None = None) -> Evidence | None:
        """Return the evidence of people's verdicts, or None without a comparison that is complete.

        Costs the queries of `blind_verdicts` unless its result is given, and one more if the judge is a
        control variate.
        """
        return self.evidence_from(
            self.counted(self.blind_verdicts() if verdicts is None else verdicts)
        )

    def evidence_from(self, counted: Sequence[BlindVerdict]) -> Evidence | None:
        """Return the evidence of verdicts that count, or None without any."""
        if not counted:
            return None
        excess = self.excess_by_prompt
        prompts = dict.fromkeys(verdict.prompt for verdict in counted)
        of_prompts = None if excess is None else np.array([excess[prompt] for prompt in prompts])
        return self.evidence_of([(v.prompt, v.value) for v in counted], of_prompts)

    def counted(self, verdicts: Iterable[BlindVerdict]) -> list[BlindVerdict]:
        """Return the verdicts that count (`evidence.complete`).

        Those of programs count only in a project whose reviewers are all simulated. Costs a query if the
        judge orders the prompts.
        """
        usable = (v for v in verdicts if self.project.simulated or not v.simulated)
        rows = ((verdict.prompt, verdict) for verdict in usable)
        return complete(rows, self.verdicts_per_prompt, self.asked_prompts())

    def asked_prompts(self) -> list[AskedPrompt] | None:
        """Return the prompts that people are asked about, in the registered random order.

        It is None unless the judge orders the prompts. Costs a query if it does.
        """
        if not self.judge_order:
            return None
        items = self.items.exclude(task=None).exclude(block=None)
        rows = items.values_list("prompt_id", "block", "task__inactive")
        prompts = [AskedPrompt(prompt, block or 0, absent) for prompt, block, absent in rows]
        return in_registered_order(prompts, self.prompts)

    @cached_property
    def excess_by_prompt(self) -> dict[Hashable, float] | None:
        """Return the excess of the judge's value on each prompt that people judge.

        It is None if the judge is not a control variate, or if it has no other prompts to compare with.
        Takes a query if the judge is one, the first time; the database refuses changes.
        """
        if not self.judge_controls:
            return None
        graded = self.reward_model_id is not None
        return excess_of_prompts(
            JudgedPrompt(
                prompt=item.prompt_id,
                block=item.block,
                asked=item.task_id is not None,
                value=item.judge_value(graded=graded),
            )
            for item in self.items.exclude(block=None)
            if item.block is not None
        )

    def is_decided(self) -> bool:
        """Return whether people's verdicts prove the candidate worse, or better without a doubt.

        While there is a doubt about length or reviewers, more verdicts can still remove it. Takes four
        queries or more.
        """
        sources = self.sources()
        if sources.people is None:
            return False
        if sources.people.conclusion is Conclusion.BETTER:
            return not doubts_about_win(self, sources, of_people=True)
        return sources.people.conclusion is Conclusion.WORSE

    def sources(self) -> Sources:
        """Return the evidence of people and of the judge, and the result of the regression set.

        This takes four queries or five, and two more if there is a regression set.
        """
        counted = self.counted(self.blind_verdicts())
        of_people, of_judge = self.at_equal_length(counted)
        general = None
        if self.question == self.Question.LIKE_THEM:
            general = self.general_rate(counted)
        return Sources(
            people=self.evidence_from(counted),
            judge=self.judged(),
            general=general,
            people_at_equal_length=of_people,
            judge_at_equal_length=of_judge,
            regression=self.regression(),
        )

    def regression(self) -> RegressionResult | None:
        """Return the result of the regression set, or None without a set or without verdicts.

        It has the error rate of the evaluation. Costs a query, or two, if there is a set.
        """
        if self.regression_set is None or self.own_alpha is None or not self.report:
            return None
        rows = self.regression_items.values_list("prompt_id", "verdict")
        values = values_of(self.regression_set.prompt_ids, rows)
        return regression_result(values, alpha=self.own_alpha, margin=self.regression_set.margin)

    def at_equal_length(
        self, counted: Iterable[BlindVerdict]
    ) -> tuple[LengthControlled | None, LengthControlled | None]:
        """Return the length-controlled win rates of people and of the judge, in one query.

        Lengths are characters. People compare the first answers to a prompt.
        """
        return controlled_by_source(
            ((v.prompt, v.value) for v in counted), self.items_with_lengths()
        )

    def items_with_lengths(self) -> list[Item]:
        """Return the judge's verdicts and the lengths of the answers in characters, in one query."""
        lengths = Length("candidate_text"), Length("baseline_text")
        rows = self.items.order_by("id").values_list("prompt_id", "sample", "verdict", *lengths)
        return [tuple(row) for row in rows]

    def general_rate(self, counted: Iterable[BlindVerdict]) -> GeneralRate | None:
        """Return the win rate over reviewers in general from the verdicts that count.

        It is None for fewer than two reviewers.
        """
        return general_rate((v.reviewer, v.prompt, v.value) for v in counted)

    def conclusions(self) -> str:
        """Return what people's and the judge's verdicts prove, for a table.

        This takes three queries, or four.
        """
        proofs = (("people", self.people()), ("judge", self.judged()))
        return (
            "; ".join(f"{who}: {proof.conclusion}" for who, proof in proofs if proof is not None)
            or "–"
        )

    def judge_agreement(self) -> JudgeAgreement | None:
        """Return the newest measurement of its LLM judge, or None. Costs a query for an LLM judge."""
        if not self.judge.startswith(LLM):
            return None
        judge = int(self.judge.removeprefix(LLM))
        return JudgeAgreement.objects.filter(judge=judge).order_by("-id").first()

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

    `verdict` is the judge's: 1 if the candidate's answer won, 0 if the baseline's won, and ½ for a tie.
    It is None without a judge, or if its reply had no readable verdict.
    """

    evaluation = models.ForeignKey(Evaluation, on_delete=models.CASCADE, related_name="items")
    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT)
    sample = models.PositiveSmallIntegerField(default=0)
    baseline_text = models.TextField()
    candidate_text = models.TextField()
    baseline_score = models.FloatField(null=True)
    candidate_score = models.FloatField(null=True)
    verdict = models.FloatField(null=True, blank=True)
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
    block = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Block of prompts, if the judge is a control variate or orders the prompts.",
    )

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint("evaluation", "prompt", "sample", name="evaluation_item_once"),
            models.CheckConstraint(name="verdict_known", condition=Q(verdict__in=[0.0, 0.5, 1.0])),
        ]

    def __str__(self) -> str:
        return f"{self.evaluation}: {self.prompt_id}"

    def judge_value(self, *, graded: bool) -> float:
        """Return the judge's value in [0, 1], or ½ without a verdict; see `evidence.judge_value`."""
        verdict = 0.5 if self.verdict is None else self.verdict
        return judge_value(verdict, (self.baseline_score, self.candidate_score), graded=graded)


class RegressionItem(models.Model):
    """The two answers to a prompt of the regression set.

    `verdict` is 1 if the candidate's answer is better, ½ if both are equally good, and 0 if it is worse.
    It follows from `candidate_passed` and `baseline_passed`, if the case names properties that an answer
    must have. Otherwise it is the judge's, and None if the judge gave none.
    """

    evaluation = models.ForeignKey(
        Evaluation, on_delete=models.CASCADE, related_name="regression_items"
    )
    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT, related_name="+")
    sample = models.PositiveSmallIntegerField(default=0)
    baseline_text = models.TextField()
    candidate_text = models.TextField()
    baseline_passed = models.BooleanField(null=True)
    candidate_passed = models.BooleanField(null=True)
    verdict = models.FloatField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint("evaluation", "prompt", "sample", name="regression_item_once"),
            models.CheckConstraint(
                name="regression_verdict_known", condition=Q(verdict__in=[0.0, 0.5, 1.0])
            ),
        ]

    def __str__(self) -> str:
        return f"{self.evaluation}, regression set: {self.prompt_id}"


def verdict_of(tiers: list[list[int]], candidate: int) -> float:
    """Return 1, ½ or 0 for the candidate's response from a ranking of two responses."""
    if len(tiers) == 1:
        return 0.5
    return 1.0 if candidate in tiers[0] else 0.0
