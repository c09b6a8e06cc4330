"""The judges of evaluations: rules that score a text, and reward models."""

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
    """A judge, which decides from scores which answer is better.

    `score` is the function of a rule. It is None for a reward model, because the recipe writes the
    scores of a reward model next to the answers.
    """

    name: str
    title: str
    score: Score | None = None
    reward_model: RewardModel | None = None
    for_project: Callable[[Project], bool] = any_project

    def fits(self, project: Project) -> bool:
        """Return whether the judge can score answers to the prompts of this project."""
        if self.reward_model:
            return self.reward_model.project_id == project.pk
        return self.for_project(project)


class UnknownJudge(Exception):  # noqa: N818
    """The error for a name that no judge has. The text lists the existing judges."""


_rules: dict[str, Judge] = {}


def register(
    name: str, title: str, score: Score, *, for_project: Callable[[Project], bool] = any_project
) -> None:
    """Register a rule as a judge of the projects for which `for_project` returns true.

    Call this in AppConfig.ready. Raises ValueError if the name is already taken.
    """
    if name in _rules or name.startswith(REWARD_MODEL):
        raise ValueError(f"The judge name {name!r} is already taken.")
    _rules[name] = Judge(name, title, score, for_project=for_project)


def rules(project: Project) -> list[Judge]:
    """Return the rules that fit the project."""
    return [judge for judge in _rules.values() if judge.fits(project)]


def get(name: str) -> Judge:
    """Return the judge with this name. A reward model is read from the database.

    Raises UnknownJudge if no judge has this name.
    """
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
    """Return the title of a judge for a page, or its name if the judge no longer exists."""
    try:
        return get(name).title
    except UnknownJudge:
        return name
