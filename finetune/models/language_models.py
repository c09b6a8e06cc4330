"""The language models of a project, and what must hold before one is promoted."""

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery import current_app
from django.db import models, transaction
from django.db.models import Q
from kombu.exceptions import OperationalError as BrokerError

from accounts.models import User
from finetune.models.doubts import doubts_about_evaluation, proofs_against
from labeling.models import Project
from reward.models import RewardModel, Snapshot, Withdrawal, doubts_about, withdrawals_in
from reward.promotion import CannotMove, Promotable, promotion_constraints
from runs import storage
from runs.models import Artifact, Run

if TYPE_CHECKING:
    from finetune.models.evaluations import Evaluation

logger = logging.getLogger("tiebreak.release")

WEIGHTS_FILE = "adapter_model.safetensors"
"""The file with the weights of an adapter, in its folder."""


class Model(Promotable):
    """A language model: a base, an adapter, or a merged model, with the run that made it.

    The parent of an adapter is the model that was fine-tuned. The parent of a merged model is the
    adapter that was merged into its base. A merged model is used like a base, and keeps the snapshot
    of its adapter.
    """

    name = models.CharField(max_length=120)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="models")
    base = models.CharField(
        max_length=300,
        help_text="repo, repo@revision or a folder; on an endpoint, the name of the model there.",
    )
    endpoint = models.CharField(
        max_length=40, blank=True, help_text="Name of the endpoint that serves it, if there is one."
    )
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
            models.CheckConstraint(
                name="model_on_endpoint_is_not_ours",
                condition=Q(endpoint="")
                | (Q(adapter="", run=None, parent=None) & ~Q(state="promoted")),
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def withdrawals(self) -> list[Withdrawal]:
        """Return the withdrawals of data that it, a model it was made from, or a reward model that
        trained one of them was trained on. Costs two queries, and one per step of the ancestry.
        """
        uses: list[tuple[int | None, datetime]] = []
        reward_models = []
        for step in self.ancestry():
            uses.append((step.snapshot_id, step.created_at))
            if step.run and (number := step.run.inputs.get("reward_model")):
                reward_models.append(number)
        rows = RewardModel.objects.filter(pk__in=reward_models)
        return withdrawals_in([*uses, *rows.values_list("snapshot_id", "created_at")])

    def doubts_about_data(self) -> list[str]:
        return doubts_about(self.project, self.withdrawals())

    def doubts(self) -> list[str]:
        """Return the reasons not to promote it, each as a sentence.

        An adapter needs an evaluation against the promoted model that meets the project's policy, or
        against its base if no model is promoted. One such evaluation is enough, because all of them
        share one error rate, unless another proves the opposite. Evaluations of models with the same
        weights count. This takes about ten queries, and three per evaluation.
        """
        if not self.adapter and not self.is_merged:
            return []
        promoted = self.project.models.filter(state=self.State.PROMOTED).exclude(pk=self.pk).first()
        family = self.same_weights()
        if promoted and promoted.pk in family:
            return []
        baseline = promoted or self.own_base()
        own = self.finished_evaluations()
        finished = own.filter(baseline__in=baseline.same_weights())
        evaluations = list(
            finished.select_related("project", "baseline", "regression_set").order_by("-id")
        )
        if not evaluations:
            role = "the promoted model" if promoted else "the base that it was made from"
            others = {str(other.baseline) for other in own.select_related("baseline")}
            elsewhere = f" Evaluations against {', '.join(sorted(others))} do not count."
            return [
                f"It has never been evaluated against {baseline}, {role}."
                + (elsewhere if others else "")
            ]
        read = [(evaluation, evaluation.sources()) for evaluation in evaluations]
        opposed = [
            doubt for evaluation, sources in read for doubt in proofs_against(evaluation, sources)
        ]
        if opposed:
            return opposed
        doubts = [doubts_about_evaluation(evaluation, sources) for evaluation, sources in read]
        return [] if [] in doubts else doubts[0]

    def promote(self, *, by: User | None, reason: str = "") -> "Model | None":
        """Promote this model, as `Promotable.promote` does. A model on an endpoint is refused."""
        if self.endpoint:
            raise CannotMove(
                f"{self} is on the endpoint {self.endpoint}, so Tiebreak cannot serve or fine-tune it. "
                "Promote a model of your own."
            )
        return super().promote(by=by, reason=reason)

    def finished_evaluations(self) -> "models.QuerySet[Evaluation]":
        """Return the evaluations, with verdicts, of the models with the same weights."""
        return self.evaluations.model.objects.filter(candidate__in=self.same_weights()).exclude(
            report={}
        )

    def _record_promotion(
        self, *, by: User | None, previous: "Model | None", doubts: list[str], reason: str
    ) -> dict[str, Any]:
        """Issue the certificate of a promotion. Reads all verdicts of the model's evaluations."""
        certificate = self.certificates.model.issue(
            model=self, by=by, previous=previous, doubts=doubts, reason=reason
        )
        transaction.on_commit(wake_deliverer)
        return {"certificate": certificate.number}

    def same_weights(self) -> set[int]:
        """Return the ids of the models with the same weights as this one, including its own.

        These are the merged versions of an adapter, their copies, and adapters whose file of weights
        is identical, for example because they were trained again with the same data and seeds. For a
        base, it is only the base. This takes three queries, and one per merge.
        """
        unmerged: Model = self
        while unmerged.is_merged and unmerged.parent:
            unmerged = unmerged.parent
        if not unmerged.adapter:
            return {unmerged.pk, self.pk}
        weights = Artifact.objects.filter(name=WEIGHTS_FILE)
        digests = list(weights.filter(run=unmerged.run_id).values_list("sha256", flat=True))
        twins = weights.filter(sha256__in=digests).values("run")
        adapters = {unmerged.pk, *Model.objects.filter(run__in=twins).values_list("pk", flat=True)}
        merged = Model.objects.filter(adapter="", parent__in=adapters).values_list("pk", flat=True)
        return adapters | set(merged)

    @property
    def is_merged(self) -> bool:
        """Return whether the weights contain those of an adapter, which is the parent."""
        return not self.adapter and self.parent_id is not None

    @property
    def kind(self) -> str:
        """Return the kind of the model as a noun, for pages."""
        if self.adapter:
            return "LoRA adapter"
        if self.endpoint:
            return "model on an endpoint"
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
        """Return the model to compare it with: the promoted one of its project, or its base.

        A promoted model on another base cannot be compared, so the candidate's own base is used. Costs
        a query per step of both ancestries.
        """
        promoted = self.project.models.filter(state=self.State.PROMOTED).exclude(pk=self.pk).first()
        if promoted and promoted.root().base == self.root().base:
            return promoted
        base = self.own_base()
        return None if base == self else base

    def own_base(self) -> "Model":
        """Return the base that it was made from, as a model of its own project if that has it.

        The root of a copied merged model belongs to another project.
        """
        root = self.root()
        return self.project.models.filter(base=root.base, adapter="", parent=None).first() or root

    @property
    def adapter_folder(self) -> str:
        return storage.resolve(self.adapter)

    @property
    def base_folder(self) -> str:
        """Return the folder of the base, its name on Hugging Face, or its name on its endpoint."""
        if self.endpoint:
            return f"{self.endpoint}: {self.base}"
        return storage.resolve(self.base)


def wake_deliverer() -> None:
    """Ask a worker to deliver promotions. If the broker is unavailable, the periodic task does it."""
    try:
        current_app.send_task("finetune.tasks.deliver_promotions", retry=False)
    except (BrokerError, OSError) as error:
        logger.warning("A promotion is delivered later: the broker does not answer (%s).", error)


def with_descendants(models: Iterable[Model]) -> list[Model]:
    """Return the models and all their descendants, by id. Each generation takes one query."""
    family: dict[int, Model] = {}
    generation = list(models)
    while generation:
        family |= {model.pk: model for model in generation}
        children = Model.objects.filter(parent__in=[model.pk for model in generation])
        generation = list(children.exclude(pk__in=family))
    return [family[pk] for pk in sorted(family)]
