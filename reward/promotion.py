"""The states of a model in its project, shared by reward models and language models."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from django.db import models, transaction
from django.db.models import Q

from accounts.models import User, audit
from labeling.models import Project
from runs.models import Run
from webhooks.events import announce
from webhooks.models import Event

MAX_REASON_LENGTH = 1000
"""Characters of a reason to promote a model with doubts that are recorded."""


class CannotMove(Exception):  # noqa: N818
    """A refusal to change the state of a model. The text contains the reason."""


class Promotable(models.Model):
    """A model of a project that can be a candidate, promoted or archived.

    A project has at most one promoted model of each kind, which the database enforces
    (`promotion_constraints`).
    """

    class State(models.TextChoices):
        CANDIDATE = "candidate", "Candidate"
        PROMOTED = "promoted", "Promoted"
        ARCHIVED = "archived", "Archived"

    state = models.CharField(max_length=16, choices=State, default=State.CANDIDATE)

    if TYPE_CHECKING:  # subclasses declare the field, each with its own related_name
        project: Any
        project_id: int

    class Meta:
        abstract = True

    def doubts(self) -> list[str]:
        """Return the reasons not to promote this model, each as a sentence."""
        raise NotImplementedError

    def doubts_about_data(self) -> list[str]:
        """Return the reasons not to promote a model that was trained on withdrawn data."""
        raise NotImplementedError

    def all_doubts(self) -> list[str]:
        return [*self.doubts_about_data(), *self.doubts()]

    def files_removed_at(self) -> datetime | None:
        """Return when a clean-up removed the files of its run, or None. Costs a query."""
        number: int | None = getattr(self, "run_id", None)
        if number is None:
            return None
        return Run.objects.values_list("files_removed_at", flat=True).get(pk=number)

    @transaction.atomic
    def promote(self, *, by: User | None, reason: str = "") -> Self | None:
        """Promote this model and return the one it replaces, which becomes a candidate again.

        If this model is already promoted, nothing changes. Raises CannotMove if it is archived, or if
        it has doubts and no `reason` overrides them. The audit trail records the doubts and the reason.
        """
        self._lock_state()
        if self.state == self.State.PROMOTED:
            return None
        if self.state == self.State.ARCHIVED:
            raise CannotMove(f"{self} is archived. Restore it first.")
        doubts, reason = self.all_doubts(), reason.strip()[:MAX_REASON_LENGTH]
        if doubts and not reason:
            raise CannotMove(" ".join([*doubts, "To promote it anyway, give a reason."]))
        details: dict[str, Any] = {"doubts": doubts, "reason": reason} if doubts else {"doubts": []}
        promoted = type(self)._default_manager.filter(state=self.State.PROMOTED)
        previous = promoted.filter(project=self.project_id).first()
        if previous:
            previous._set_state(self.State.CANDIDATE)
            details["instead_of"] = previous.pk
        self._set_state(self.State.PROMOTED)
        details |= self._record_promotion(by=by, previous=previous, doubts=doubts, reason=reason)
        entry = audit(by, "promoted", self, id=self.pk, **details)
        self._announce(entry.pk)
        return previous

    def _announce(self, promotion: int) -> None:
        kind = self._meta.model_name
        announce(
            project=self.project_id,
            event=Event.MODEL_PROMOTED,
            subject=f"{kind} {self.pk}, {promotion}",
            data={"kind": kind, "model": self.pk, "name": str(self)},
        )

    def _record_promotion(
        self, *, by: User | None, previous: Self | None, doubts: list[str], reason: str
    ) -> dict[str, Any]:
        """Record a promotion in its transaction, and return details for the audit trail.

        A subclass can override this. Raises CannotMove if the promotion cannot be recorded.
        """
        return {}

    @transaction.atomic
    def archive(self, *, by: User | None) -> None:
        """Remove this model from the choices in forms. Raises CannotMove if it is promoted."""
        self._lock_state()
        if self.state == self.State.PROMOTED:
            raise CannotMove(f"{self} is promoted. Promote another one first.")
        if self.state != self.State.ARCHIVED:
            self._set_state(self.State.ARCHIVED)
            audit(by, "archived", self, id=self.pk)

    @transaction.atomic
    def restore(self, *, by: User | None) -> None:
        """Make an archived model a candidate again.

        Raises CannotMove if a clean-up has removed its files.
        """
        self._lock_state()
        if removed := self.files_removed_at():
            raise CannotMove(
                f"The files of {self} were removed on {removed:%-d %b %Y}, so it cannot be used again. "
                "Train it again with the settings of its run."
            )
        if self.state == self.State.ARCHIVED:
            self._set_state(self.State.CANDIDATE)
            audit(by, "restored", self, id=self.pk)

    def _lock_state(self) -> None:
        """Lock the project, so that promotions run one at a time, and read the state again."""
        Project.objects.select_for_update(no_key=True).get(pk=self.project_id)
        self.refresh_from_db(fields=["state"])

    def _set_state(self, state: str) -> None:
        self.state = state
        self.save(update_fields=["state"])


def promotion_constraints(prefix: str) -> list[models.BaseConstraint]:
    """Return the constraints for the table of a Promotable. Their names begin with `prefix`."""
    return [
        models.UniqueConstraint(
            "project", condition=Q(state="promoted"), name=f"{prefix}_one_promoted"
        ),
        models.CheckConstraint(
            name=f"{prefix}_state_known",
            condition=Q(state__in=["candidate", "promoted", "archived"]),
        ),
    ]


MOVED = {
    "promote": "is promoted",
    "archive": "is archived",
    "restore": "is a candidate again",
}
"""The methods that change a state, and the predicates of the messages about it."""


def move(model: Promotable, to: str, *, by: User | None, reason: str = "") -> str:
    """Call the method `to`, one of MOVED, and return a message. Raises CannotMove."""
    if to == "promote":
        model.promote(by=by, reason=reason)
    elif to == "archive":
        model.archive(by=by)
    else:
        model.restore(by=by)
    return f"{model} {MOVED[to]}."
