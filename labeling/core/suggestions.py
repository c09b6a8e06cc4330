"""What a reward model would say of the responses, for those whom the project's policy lets see it.

Reward models live in an app above this one, which registers where the scores come from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from accounts.models import User
from labeling.core.blindness import may_see_suggestions
from labeling.models import Project, Task


@dataclass(frozen=True)
class Suggestion:
    """Scores are comparable within a prompt only. `by` is the model's name."""

    score: float
    uncertainty: float | None
    by: str


Source = Callable[[Project, Sequence[int]], Mapping[int, Suggestion]]
"""(project, response ids) → what is known of them"""

_sources: list[Source] = []


def register(source: Source) -> None:
    """Call in `AppConfig.ready`. Where two sources know a response, the first one speaks."""
    if source not in _sources:
        _sources.append(source)


def suggestions_for(
    user: User, task: Task, response_ids: Sequence[int], *, judging: bool = False
) -> dict[int, Suggestion]:
    """By response; empty for people who may not see them, and then no score is read.

    Costs what the policy costs, and a query of each source. On a page where a task is judged, no
    query at all unless everyone may see them.
    """
    project = task.project
    if judging and project.sees_suggestions != Project.Sees.ALWAYS:
        return {}
    if not may_see_suggestions(user, project, task, judging=judging):
        return {}
    found: dict[int, Suggestion] = {}
    for source in _sources:
        found = {**source(project, response_ids), **found}
    return found
