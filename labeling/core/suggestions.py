"""Scores of responses by reward models, for users who may see them under the project's policy.

Reward models are part of an app above this one, which registers the source of the scores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accounts.models import User
from labeling.core.blindness import may_see_suggestions
from labeling.models import Project, Task


@dataclass(frozen=True)
class Suggestion:
    """A score, comparable within a prompt only. `by` is the name of the model."""

    score: float
    uncertainty: float | None
    by: str


Source = Callable[[Project, Sequence[int]], Mapping[int, Suggestion]]
"""A function of a project and response ids that returns its suggestions by response id."""

_sources: list[Source] = []


def register(source: Source) -> None:
    """Register a source, in `AppConfig.ready`. The first source with a score for a response wins."""
    if source not in _sources:
        _sources.append(source)


def suggestions_for(
    user: User, task: Task, response_ids: Sequence[int], *, judging: bool = False
) -> dict[int, Suggestion]:
    """Return the suggestions that the user may see, by response id.

    Costs the queries of the policy and, if the user may see the scores, of each source. It runs no
    queries while a task is judged, unless everyone may always see the scores.
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
