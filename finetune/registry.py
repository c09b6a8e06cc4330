"""The models of a project: which bases can be added, and which model is the default."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from accounts.models import User, audit
from finetune.models import Model
from labeling.models import Project
from reward.references import ReferenceProblem, checked_reference, config_of, short_name

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
"""Values of model_type whose models read a text as a whole and cannot continue it."""

GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "DoubleHeadsModel")
"""Endings of the architectures that can generate text."""


def checked_base(reference: str) -> str:
    """Return the reference in its one form. Raises ReferenceProblem.

    A model that cannot generate text is refused as far as its config is on this machine.
    """
    base = checked_reference(reference)
    problem = generation_problem(config_of(base) or {})
    if problem:
        raise ReferenceProblem(f"{base} {problem}. Add a decoder, such as a Llama or Qwen model.")
    return base


def generation_problem(config: Mapping[str, Any]) -> str:
    """Return why a model with this config.json cannot generate text; empty when nothing says so."""
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
    """Return the project's model of this base, and whether it is new. Raises ReferenceProblem."""
    base = checked_base(base)
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
