"""The registry of a project's models: base models that can be added, and the default model."""

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
"""Values of model_type of encoders, which cannot continue a text."""

GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "DoubleHeadsModel")
"""Endings of the architectures that can generate text."""


def checked_base(reference: str) -> str:
    """Return the reference in its canonical form. Raises ReferenceProblem.

    Refuses models that cannot generate text if their config is on this machine.
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
    """Return the project's model with this base, and whether it is new. Raises ReferenceProblem."""
    base = checked_base(base)
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    existing = Model.objects.filter(project=project, base=base, adapter="").order_by("id").first()
    if existing:
        return existing, False
    model = Model.objects.create(project=project, base=base, name=(name or short_name(base))[:120])
    audit(by, "model added", model, id=model.pk, base=base)
    return model, True


def default_model(project: Project) -> Model | None:
    """Return the promoted model, or otherwise the oldest base that is not archived."""
    models = Model.objects.filter(project=project)
    return (
        models.filter(state=Model.State.PROMOTED).first()
        or models.filter(adapter="").exclude(state=Model.State.ARCHIVED).order_by("id").first()
    )
