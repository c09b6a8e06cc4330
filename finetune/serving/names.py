"""The models of projects as the model server and the API know them.

The name of a project's promoted model is the slug of the project, such as `lamps`. Every other model
has a number, such as `lamps/12`. So `lamps` is another model after a promotion, and `lamps/12` never is.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.db.models import QuerySet

from accounts.models import User
from accounts.parameters import number
from buckets import files
from finetune.models import Delivery, Model
from labeling.models import Project
from reward.access import led_projects
from runs import storage
from serving.client import LanguageModel

SLUG = re.compile(r"[-\w]{1,200}", re.ASCII)


class UnknownModel(Exception):  # noqa: N818
    """A name without a model. The text names the reason, and is for the sender of the request."""


def served(model: Model) -> LanguageModel:
    """Return the model as the model server loads it, with its name on vLLM if it is loaded there.

    Its files are copied from an object store if necessary. Costs one query if a vLLM server is
    configured, otherwise none.
    """
    adapter = model.adapter_folder if model.adapter else ""
    own = LanguageModel(base=model.base_folder, adapter=adapter)
    for folder in filter(None, (model.base, model.adapter)):
        files.fetch_quietly(storage.resolve(folder))
    loaded = loaded_on_vllm(model)
    if loaded is None:
        return own
    if not model.adapter:
        return replace(own, vllm_name=loaded["base_name"])
    options = loaded.get("template_options") or {}
    return replace(own, vllm_name=loaded["name"], template_options=options)


def served_together(models: Iterable[Model]) -> list[LanguageModel]:
    """Return models that are compared, so that either vLLM or the model server answers for all of them."""
    each = [served(model) for model in models]
    if all(model.vllm_name for model in each):
        return each
    return [replace(model, vllm_name="", template_options={}) for model in each]


def loaded_on_vllm(model: Model) -> dict[str, Any] | None:
    """Return the result of the delivery to vLLM by which a promoted adapter, or its base, is loaded."""
    if not settings.VLLM.url or (model.adapter and model.state != Model.State.PROMOTED):
        return None
    delivered = Delivery.objects.filter(
        service=Delivery.Service.VLLM,
        delivered_at__isnull=False,
        certificate__model__state=Model.State.PROMOTED,
    )
    same = (
        {"certificate__model": model} if model.adapter else {"certificate__model__base": model.base}
    )
    return delivered.filter(**same).values_list("result", flat=True).first()


def servable(user: User) -> QuerySet[Model]:
    """Return the models that the user may ask: those of led projects, except archived ones."""
    return servable_in(led_projects(user))


def servable_in(projects: QuerySet[Project]) -> QuerySet[Model]:
    """Return the models of projects, except archived ones.

    Models on an endpoint are left out, because Tiebreak does not serve them.
    """
    models = Model.objects.filter(project__in=projects, endpoint="")
    return models.exclude(state=Model.State.ARCHIVED).select_related("project")


def names(user: User, *, project: int | None = None) -> Iterator[tuple[str, Model]]:
    """Yield all names that the user may ask, with their models. Costs one query.

    With `project`, only those of this project.
    """
    for model in _of_token(servable(user), project).order_by("project__slug", "id"):
        if model.state == Model.State.PROMOTED:
            yield model.project.slug, model
        yield f"{model.project.slug}/{model.pk}", model


def _of_token(models: QuerySet[Model], project: int | None) -> QuerySet[Model]:
    return models if project is None else models.filter(project=project)


def model_named(user: User, name: str, *, project: int | None = None) -> Model:
    """Return the model with a name, in `project` if it is given. Raises UnknownModel.

    Costs one query.
    """
    slug, slash, digits = name.partition("/")
    models = _of_token(servable(user), project).filter(
        project__slug=slug if SLUG.fullmatch(slug) else ""
    )
    pk = number(digits) if slash else None
    if slash:
        model = models.filter(pk=pk).first() if pk is not None and pk < 2**31 else None
    else:
        model = models.filter(state=Model.State.PROMOTED).first()
    if model is None:
        hint = "" if slash else " A project without a promoted model is asked as PROJECT/NUMBER."
        raise UnknownModel(
            f"The model {name[:100]!r} does not exist, or you do not lead its project.{hint} GET "
            "/v1/models lists the names."
        )
    return model
