"""Judges of evaluations: rules that score a text, by name, and reward models, by id."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accounts.parameters import number
from labeling.models import Project
from reward.models import RewardModel

Messages = Sequence[dict[str, str]]
Score = Callable[[Messages, str], float]

REWARD_MODEL = "reward_model:"


def any_project(project: Project) -> bool:
    return True


@dataclass(frozen=True)
class Judge:
    """A judge.

    `score` is None for a reward model, whose scores the recipe writes next to the answers.
    """

    name: str
    title: str
    score: Score | None = None
    reward_model: RewardModel | None = None
    for_project: Callable[[Project], bool] = any_project

    def fits(self, project: Project) -> bool:
        """Return whether the judge can score the answers to this project's prompts."""
        if self.reward_model:
            return self.reward_model.project_id == project.pk
        return self.for_project(project)


class UnknownJudge(Exception):  # noqa: N818
    """No judge has this name. The text lists the existing ones."""


_rules: dict[str, Judge] = {}


def register(
    name: str, title: str, score: Score, *, for_project: Callable[[Project], bool] = any_project
) -> None:
    """Register a rule as a judge of the projects for which `for_project` returns true.

    Call this in AppConfig.ready. Raises ValueError for a name that is taken.
    """
    if name in _rules or name.startswith(REWARD_MODEL):
        raise ValueError(f"The judge name {name!r} is already taken.")
    _rules[name] = Judge(name, title, score, for_project=for_project)


def rules(project: Project) -> list[Judge]:
    """Return the rules that fit the project."""
    return [judge for judge in _rules.values() if judge.fits(project)]


def get(name: str) -> Judge:
    """Return the judge with this name. Raises UnknownJudge. Costs a query for a reward model."""
    if name in _rules:
        return _rules[name]
    model_id = number(name.removeprefix(REWARD_MODEL))
    if name.startswith(REWARD_MODEL) and model_id is not None:
        model = RewardModel.objects.filter(pk=model_id).first()
        if model:
            return of_reward_model(model)
    names = ", ".join([*_rules, f"{REWARD_MODEL}ID"])
    raise UnknownJudge(f"No judge is called {name!r}. Available judges: {names}.")


def of_reward_model(model: RewardModel) -> Judge:
    return Judge(f"{REWARD_MODEL}{model.pk}", f"Reward model {model}", reward_model=model)


def title_of(name: str) -> str:
    """Return the judge's title for a page, or its name if the judge no longer exists."""
    try:
        return get(name).title
    except UnknownJudge:
        return name
