"""The models of labeling, one module per noun.

Where a rule cannot be a constraint, it is a trigger in one of the migrations.
"""

from labeling.models.disputes import Adjudication, RelabelledTask, RelabelSample
from labeling.models.gold import Gold, Qualification
from labeling.models.guidelines import (
    Criterion,
    Guideline,
    GuidelineConfirmation,
    GuidelineVersion,
)
from labeling.models.imports import ColumnMapping, FileImport
from labeling.models.invitations import Invitation
from labeling.models.projects import (
    MAX_RATIONALE_LENGTH,
    Membership,
    Project,
    ProjectQuerySet,
    digest,
)
from labeling.models.prompts import Finding, Prompt, Response, validate_messages
from labeling.models.rankings import Ranking, Skip
from labeling.models.slots import QueueCursor, Slot
from labeling.models.tasks import Task, TaskResponse

__all__ = [
    "MAX_RATIONALE_LENGTH",
    "Adjudication",
    "ColumnMapping",
    "Criterion",
    "FileImport",
    "Finding",
    "Gold",
    "Guideline",
    "GuidelineConfirmation",
    "GuidelineVersion",
    "Invitation",
    "Membership",
    "Project",
    "ProjectQuerySet",
    "Prompt",
    "Qualification",
    "QueueCursor",
    "Ranking",
    "RelabelSample",
    "RelabelledTask",
    "Response",
    "Skip",
    "Slot",
    "Task",
    "TaskResponse",
    "digest",
    "validate_messages",
]
