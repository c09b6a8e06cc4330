"""The models of a project: how a base gets in, and what is known about an adapter."""

from django.db import transaction

from accounts.models import User, audit
from finetune.models import Model
from labeling.models import Project
from reward.references import checked_reference, short_name


@transaction.atomic
def add_base(*, project: Project, base: str, by: User | None, name: str = "") -> tuple[Model, bool]:
    """The project's model of this base; bool = added now. Raises ReferenceProblem."""
    base = checked_reference(base)
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    known = Model.objects.filter(project=project, base=base, adapter="").order_by("id").first()
    if known:
        return known, False
    model = Model.objects.create(project=project, base=base, name=(name or short_name(base))[:120])
    audit(by, "model added", model, id=model.pk, base=base)
    return model, True


def default_model(project: Project) -> Model | None:
    """Who answers when nobody says otherwise: the promoted model, else the oldest base."""
    models = Model.objects.filter(project=project)
    return (
        models.filter(state=Model.State.PROMOTED).first()
        or models.filter(adapter="").exclude(state=Model.State.ARCHIVED).order_by("id").first()
    )
