"""Whose opinion decides an evaluation: rules that score a text, by name, and reward models by id."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reward.models import RewardModel

Messages = Sequence[dict[str, str]]
Score = Callable[[Messages, str], float]

REWARD_MODEL = "reward_model:"


@dataclass(frozen=True)
class Judge:
    """`score` is None for a reward model: the recipe has written its scores beside the answers."""

    name: str
    title: str
    score: Score | None = None
    reward_model: RewardModel | None = None


class UnknownJudge(Exception):  # noqa: N818
    """No judge has this name; the text lists those there are."""


_rules: dict[str, Judge] = {}


def register(name: str, title: str, score: Score) -> None:
    """Make a rule a judge. Call it from AppConfig.ready; the same name twice is an error."""
    if name in _rules or name.startswith(REWARD_MODEL):
        raise ValueError(f"A judge cannot be called {name!r}: the name is taken.")
    _rules[name] = Judge(name, title, score)


def rules() -> list[Judge]:
    return list(_rules.values())


def get(name: str) -> Judge:
    """Raises UnknownJudge. Costs a query for a reward model."""
    if name in _rules:
        return _rules[name]
    number = name.removeprefix(REWARD_MODEL)
    if name.startswith(REWARD_MODEL) and number.isdigit():
        model = RewardModel.objects.filter(pk=number).first()
        if model:
            return of_reward_model(model)
    known = ", ".join([*_rules, f"{REWARD_MODEL}ID"])
    raise UnknownJudge(f"No judge is called {name!r}. Known are: {known}.")


def of_reward_model(model: RewardModel) -> Judge:
    return Judge(f"{REWARD_MODEL}{model.pk}", f"Reward model {model}", reward_model=model)


def title_of(name: str) -> str:
    """For pages: never fails, also when the rule is not installed any more."""
    try:
        return get(name).title
    except UnknownJudge:
        return name
