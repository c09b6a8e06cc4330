"""The models of a project: adding base models, and finding the default model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.urls import reverse

from accounts.models import User, audit
from finetune.endpoints import Endpoint, EndpointProblem, read_endpoints
from finetune.models import Model
from labeling.models import Project
from reward.references import ReferenceProblem, checked_reference, config_of, short_name
from runs import storage
from runs.kinds import CannotRun
from runs.models import Run

ENCODERS = frozenset(
    {
        "albert", "bert", "bert-generation", "big_bird", "camembert", "canine", "convbert",
        "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm",
        "eurobert", "flaubert", "fnet", "funnel", "ibert", "layoutlm", "longformer", "luke",
        "megatron-bert", "mobilebert", "modernbert", "mpnet", "mra", "nystromformer", "nezha",
        "qdqbert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
        "splinter", "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
    }
)  # fmt: skip
"""The values of `model_type` of encoders, which cannot continue a text."""

GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "DoubleHeadsModel")
"""The endings of the names of architectures that can generate text."""


def checked_base(reference: str) -> str:
    """Return the reference to a base model in its canonical form.

    Raises ReferenceProblem if the reference is not valid, or if the config of the model is on this
    machine and shows that the model cannot generate text.
    """
    base = checked_reference(reference)
    problem = generation_problem(config_of(base) or {})
    if problem:
        raise ReferenceProblem(f"{base} {problem}. Add a decoder, such as a Llama or Qwen model.")
    return base


def generation_problem(config: Mapping[str, Any]) -> str:
    """Return the reason why a model with this config.json cannot generate text, or an empty
    string.
    """
    kind, architectures = str(config.get("model_type", "")), config.get("architectures") or []
    if config.get("is_encoder_decoder"):
        return f"is an encoder-decoder ({kind}), which cannot be sampled or fine-tuned here"
    if kind in ENCODERS and not config.get("is_decoder"):
        return f"is an encoder ({kind}): it can become a reward model, but cannot generate text"
    names = [name for name in architectures if isinstance(name, str)]
    if names and not any(name.endswith(GENERATING) for name in names):
        return f"has no head to generate text with (its architecture is {', '.join(names)})"
    return ""


@transaction.atomic
def add_base(*, project: Project, base: str, by: User | None, name: str = "") -> tuple[Model, bool]:
    """Return the model of the project with this base, and whether it is new.

    A copy of the folder of a merged model keeps the lineage, so that evaluations know the prompts
    that it was trained on. Raises ReferenceProblem.
    """
    base = checked_base(base)
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    own = Model.objects.filter(project=project, base=base, adapter="", endpoint="")
    existing = own.order_by("id").first()
    if existing:
        return existing, False
    parent = merged_adapter(base)
    model = Model.objects.create(
        project=project,
        base=base,
        name=(name or short_name(base))[:120],
        parent=parent,
        snapshot=parent.snapshot if parent and parent.project_id == project.pk else None,
    )
    audit(by, "model added", model, id=model.pk, base=base)
    return model, True


def declared_endpoints() -> dict[str, Endpoint]:
    """Return the endpoints that the operator has declared, by name. Raises EndpointProblem."""
    return read_endpoints(settings.ENDPOINTS)


def endpoint_named(name: str) -> Endpoint:
    """Return the endpoint with this name. Raises EndpointProblem if it is not declared."""
    endpoints = declared_endpoints()
    if name in endpoints:
        return endpoints[name]
    names = ", ".join(endpoints) or "none"
    raise EndpointProblem(
        f"The endpoint {name!r} is not declared. Declared endpoints: {names}. An operator declares "
        f"endpoints in {settings.ENDPOINTS}."
    )


def checked_served(endpoint: str, model: str) -> None:
    """Raise EndpointProblem if the endpoint is not declared or does not allow the model."""
    declared = endpoint_named(endpoint)
    if not declared.offers(model):
        names = ", ".join(declared.models)
        raise EndpointProblem(
            f"The endpoint {endpoint} allows only these models: {names}."
            if names
            else f"{model!r} is not the name of a model: use letters, digits and . / : @ + - _."
        )


@transaction.atomic
def add_served(
    *, project: Project, endpoint: str, model: str, by: User | None, name: str = ""
) -> tuple[Model, bool]:
    """Return the project's model with this name on an endpoint, and whether it is new.

    Raises EndpointProblem.
    """
    checked_served(endpoint, model)
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    same = Model.objects.filter(project=project, endpoint=endpoint, base=model).first()
    if same:
        return same, False
    row = Model.objects.create(
        project=project,
        endpoint=endpoint,
        base=model,
        name=(name or short_name(model))[:120],
    )
    audit(by, "model added", row, id=row.pk, base=model, endpoint=endpoint)
    return row, True


def merged_adapter(base: str) -> Model | None:
    """Return the adapter of this installation that was merged into a folder, or None.

    The report in the folder contains the unique id of the run that trained the adapter. If there is a
    report, this takes one query.
    """
    storage.fetch_file(base, "report.json")
    try:
        report = json.loads((Path(storage.resolve(base)) / "report.json").read_text())
        run = UUID(report["inputs"]["lineage"][0]["run"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return Model.objects.select_related("snapshot").filter(run__request_id=run).first()


def model_of(inputs: Mapping[str, Any], name: str = "model") -> Model:
    """Return the model that the inputs name. Raises CannotRun if there is none."""
    number: Any = inputs.get(name)
    try:
        return Model.objects.select_related("project").get(pk=number)
    except (Model.DoesNotExist, TypeError, ValueError):
        raise CannotRun(f"There is no model {number}.") from None


def own_model_of(inputs: Mapping[str, Any], name: str = "model") -> Model:
    """Return the model that the inputs name, whose weights Tiebreak can load. Raises CannotRun."""
    model = model_of(inputs, name)
    if model.endpoint:
        raise CannotRun(
            f"{model} is on the endpoint {model.endpoint}, so its weights are not here. Choose a model "
            "of your own."
        )
    return model


def default_model(project: Project) -> Model | None:
    """Return the promoted model or, if there is none, the oldest base that is not archived.

    A merged model is chosen only if there is no other base.
    """
    models = Model.objects.filter(project=project)
    return models.filter(state=Model.State.PROMOTED).first() or bases_of(project).first()


def bases_of(project: Project) -> Any:
    """Return the bases of the project that are not archived. Merged models come last."""
    models = Model.objects.filter(project=project, adapter="", endpoint="")
    models = models.exclude(state=Model.State.ARCHIVED)
    return models.order_by(F("parent").asc(nulls_first=True), "id")


def links_to_model(run: Run) -> list[tuple[str, str]]:
    """Return the label and URL of the model that the run created, if any."""
    model = Model.objects.filter(run=run).first()
    return [(f"The model {model}", reverse("model", args=[model.pk]))] if model else []
