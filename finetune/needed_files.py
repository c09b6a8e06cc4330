"""The runs whose published files language models need, for the clean-up of files of runs."""

from collections.abc import Iterable

from finetune.models import Certificate, Evaluation, Model
from labeling.models import Project
from runs.disk.needs import Needs, register, runs_in


def needed(lock: bool) -> Needs:
    """Return the runs with files of models that are kept, of their ancestors, and their evaluations.

    Models are kept if they are not archived or have a certificate. An ancestor is needed because an
    adapter is loaded on its base, which can be a merged model. The files of an adapter that was merged
    are also kept, so that the lineage of the merged model can be repeated. Costs three queries. With
    `lock`, no model can be promoted or restored until the end of the transaction, because the projects
    are locked.
    """
    if lock:
        projects = Project.objects.filter(pk__in=Model.objects.values("project"))
        list(projects.select_for_update(no_key=True).order_by("pk").values_list("pk"))
    models = {model.pk: model for model in Model.objects.all()}
    certified = set(Certificate.objects.values_list("model_id", flat=True))
    reasons: dict[int, str] = {}
    for model in sorted(models.values(), key=_promoted_first):
        if reason := _reason(model, certified):
            for step in _ancestry(model, models):
                own = (
                    reason if step == model else f"The model {model} was made from {step}. {reason}"
                )
                reasons.setdefault(step.pk, own)
    result: Needs = {}
    for pk, reason in reasons.items():
        model = models[pk]
        for run in {model.run_id} | runs_in([model.base, model.adapter]):
            if run is not None:
                result.setdefault(run, reason)
    evaluations = Evaluation.objects.filter(candidate__in=reasons).values_list(
        "run_id", "candidate_id"
    )
    for run, candidate in evaluations:
        result.setdefault(run, f"It is an evaluation of {models[candidate]}. {reasons[candidate]}")
    return result


def _promoted_first(model: Model) -> tuple[bool, int]:
    return (model.state != Model.State.PROMOTED, model.pk)


def _reason(model: Model, certified: set[int]) -> str:
    """Return why the files of a model are kept, or ""."""
    if model.state == Model.State.PROMOTED:
        return f"The model {model} is promoted."
    if model.pk in certified:
        return f"The model {model} has a certificate."
    return "" if model.state == Model.State.ARCHIVED else f"The model {model} is not archived."


def _ancestry(model: Model, models: dict[int, Model]) -> Iterable[Model]:
    step: Model | None = model
    while step is not None:
        yield step
        step = models.get(step.parent_id) if step.parent_id else None


def register_needs() -> None:
    register(needed)
