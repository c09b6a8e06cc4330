"""The judges of evaluations: rules that score a text, reward models, and LLM judges on endpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accounts.parameters import number
from finetune.models import LLM, JudgeAgreement, Model
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

    `score` is the function of a rule. It is None for a reward model and an LLM judge, because the recipe
    writes their scores or verdicts next to the answers. `llm` is the model of an LLM judge, and
    `agreement` its newest measurement.
    """

    name: str
    title: str
    score: Score | None = None
    reward_model: RewardModel | None = None
    llm: Model | None = None
    agreement: JudgeAgreement | None = None
    for_project: Callable[[Project], bool] = any_project

    def fits(self, project: Project) -> bool:
        """Return whether the judge can score answers to the prompts of this project."""
        own = self.reward_model or self.llm
        return own.project_id == project.pk if own else self.for_project(project)

    @property
    def note(self) -> str:
        """Return a clause about the judge's agreement with the reviewers, or "" unless it is an LLM."""
        if self.llm is None:
            return ""
        if self.agreement is None:
            return "agreement with the reviewers not measured"
        return self.agreement.note

    @property
    def label(self) -> str:
        """Return the title with the note, for a choice or a table."""
        return f"{self.title}: {self.note}" if self.note else self.title


class UnknownJudge(Exception):  # noqa: N818
    """The error for a name that no judge has. The text lists the existing judges."""


_rules: dict[str, Judge] = {}


def register(
    name: str, title: str, score: Score, *, for_project: Callable[[Project], bool] = any_project
) -> None:
    """Register a rule as a judge of the projects for which `for_project` returns true.

    Call this in AppConfig.ready. Raises ValueError if the name is already taken.
    """
    if name in _rules or name.startswith((REWARD_MODEL, LLM)):
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
    model_id = number(name.removeprefix(LLM))
    if name.startswith(LLM) and model_id is not None:
        llm = Model.objects.filter(pk=model_id).exclude(endpoint="").first()
        if llm:
            return of_llm(llm)
    names = ", ".join([*_rules, f"{REWARD_MODEL}ID", f"{LLM}ID"])
    raise UnknownJudge(f"No judge is called {name!r}. Available judges: {names}.")


def of_reward_model(model: RewardModel) -> Judge:
    return Judge(f"{REWARD_MODEL}{model.pk}", f"Reward model {model}", reward_model=model)


def of_llm(model: Model) -> Judge:
    """Return the judge that asks a model on an endpoint. Costs a query."""
    measured = JudgeAgreement.objects.filter(judge=model).select_related("guideline_version", "run")
    title = f"LLM judge {model} ({model.endpoint})"
    return Judge(f"{LLM}{model.pk}", title, llm=model, agreement=measured.order_by("-id").first())


def existing(name: str) -> Judge | None:
    """Return the judge with this name, or None if it no longer exists."""
    try:
        return get(name)
    except UnknownJudge:
        return None


def label_of(name: str) -> str:
    """Return the title of a judge with its agreement, or its name if the judge no longer exists."""
    judge = existing(name)
    return judge.label if judge else name


def title_of(name: str) -> str:
    """Return the title of a judge for a page, or its name if the judge no longer exists."""
    judge = existing(name)
    return judge.title if judge else name
