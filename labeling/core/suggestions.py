"""Reward models' scores of responses, for users who may see them under the project's settings.

Labeling cannot import the apps that know reward models, so such an app registers a source of scores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accounts.models import User
from labeling.core.blindness import may_see_suggestions
from labeling.models import Project, Task


@dataclass(frozen=True)
class Suggestion:
    """A score, comparable only with scores for the same prompt. `by` is the name of the model."""

    score: float
    uncertainty: float | None
    by: str


Source = Callable[[Project, Sequence[int]], Mapping[int, Suggestion]]
"""A function that takes a project and response ids, and returns suggestions keyed by response id."""

_sources: list[Source] = []


def register(source: Source) -> None:
    """Register a source of scores in `AppConfig.ready`. Sources registered earlier have priority."""
    if source not in _sources:
        _sources.append(source)


def suggestions_for(
    user: User, task: Task, response_ids: Sequence[int], *, judging: bool = False
) -> dict[int, Suggestion]:
    """Return the suggestions that the user may see, keyed by response id.

    Runs the queries of labeling.core.blindness and, if the user may see the scores, those of each source.
    While a task is judged it runs none, unless everyone may always see the scores.
    """
    project = task.project
    if judging and project.sees_suggestions != Project.Sees.ALWAYS:
        return {}
    if not may_see_suggestions(user, project, task, judging=judging):
        return {}
    suggestions: dict[int, Suggestion] = {}
    for source in _sources:
        suggestions = {**source(project, response_ids), **suggestions}
    return suggestions
