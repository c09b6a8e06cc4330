"""The runs whose published files reward models need, for the clean-up of files of runs."""

from labeling.models import Project
from reward.models import RewardModel
from reward.onnx import ONNX
from runs.disk.needs import Needs, register, runs_in
from runs.models import Run


def needed(lock: bool) -> Needs:
    """Return the runs of reward models that are not archived, of their bases and their ONNX exports.

    Costs two queries. With `lock`, no reward model can be promoted or restored until the end of the
    transaction, because the projects are locked.
    """
    if lock:
        projects = Project.objects.filter(pk__in=RewardModel.objects.values("project"))
        list(projects.select_for_update(no_key=True).order_by("pk").values_list("pk"))
    result: Needs = {}
    models = RewardModel.objects.exclude(state=RewardModel.State.ARCHIVED)
    numbers = set()
    for model in models.only("name", "state", "run_id", "base", "path"):
        numbers.add(model.pk)
        reason = f"The reward model {model} is {'promoted' if model.state == 'promoted' else 'not archived'}."
        for run in {model.run_id} | runs_in([model.base, model.path]):
            result.setdefault(run, reason)
    exports = Run.objects.filter(kind=ONNX.name).values_list("pk", "inputs")
    for run, inputs in exports:
        if inputs.get("reward_model") in numbers:
            result.setdefault(run, "It is an ONNX export of a reward model that is not archived.")
    return result


def register_needs() -> None:
    register(needed)
