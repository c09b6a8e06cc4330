"""Evaluations: register one by starting its run, and read what its verdicts prove."""

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from ninja import Path, Query, Router, Schema, Status
from pydantic import Field

from accounts.api import READ, TRAIN
from api import runs
from api.access import evaluation_of, own_projects, trainer_of
from api.pages import After, Limit, Number, Page, Strict, page
from finetune.kinds import EVALUATE
from finetune.models import Evaluation
from finetune.views import standings

router = Router(tags=["evaluations"])


class EvaluationItem(Schema):
    id: int
    project: str
    run: int
    candidate: int
    baseline: int
    judge: str
    registered: bool
    prompts: int
    created_at: datetime


class Conclusion(Schema):
    source: str = Field(description="Whose verdicts: the reviewers' or the judge's.")
    conclusion: str
    sentence: str
    prompts: int = Field(description="Prompts whose verdicts count.")
    win_rate: str
    interval: str
    level: str


class EvaluationDetail(EvaluationItem):
    conclusions: list[Conclusion]
    alpha: float | None
    margin: float | None
    asks_people: bool
    report: dict[str, Any]


class NewEvaluation(Strict):
    inputs: dict[str, Any] = Field(
        max_length=runs.MAX_VALUES,
        description="As in the form for evaluations. The candidate is required.",
        examples=[{"candidate": 7, "judge": "", "comparisons": True}],
    )
    config: dict[str, Any] = Field({}, max_length=runs.MAX_VALUES)
    preset: str = Field("", max_length=60)
    title: str = Field("", max_length=200)
    again: bool = False


EvaluationNumber = Annotated[Number, Path()]


def item(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "id": evaluation.pk,
        "project": evaluation.project.slug,
        "run": evaluation.run_id,
        "candidate": evaluation.candidate_id,
        "baseline": evaluation.baseline_id,
        "judge": evaluation.judge,
        "registered": evaluation.is_registered,
        "prompts": len(evaluation.prompts),
        "created_at": evaluation.run.created_at,
    }


def detail(evaluation: Evaluation) -> dict[str, Any]:
    people = evaluation.evidence_from(evaluation.counted(evaluation.blind_verdicts()))
    conclusions = [
        {
            "source": standing.source,
            "conclusion": standing.conclusion,
            "sentence": standing.sentence,
            "prompts": standing.prompts,
            "win_rate": standing.mean,
            "interval": standing.interval,
            "level": standing.level,
        }
        for standing in standings(evaluation, people)
    ]
    names = ("alpha", "margin", "asks_people", "report")
    return {
        **item(evaluation),
        "conclusions": conclusions,
        **{name: getattr(evaluation, name) for name in names},
    }


@router.get("/evaluations", response=Page[EvaluationItem], auth=READ, url_name="api-evaluations")
def list_evaluations(
    request: HttpRequest,
    project: Annotated[str, Query(max_length=60, description="Slug of a project.")] = "",
    candidate: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    after: After = None,
    limit: Limit = 100,
) -> Any:
    """List the evaluations of the projects that the owner of the token leads, newest first."""
    projects = own_projects(request)
    if project:
        projects = projects.filter(slug=project)
    rows = Evaluation.objects.filter(project__in=projects).select_related("project", "run")
    if candidate:
        rows = rows.filter(candidate=candidate)
    return page(rows, item, after=after, limit=limit, newest_first=True)


@router.post("/evaluations", response={201: runs.RunDetail}, auth=TRAIN, url_name="api-evaluations")
def register_evaluation(request: HttpRequest, body: NewEvaluation) -> Any:
    """Queue the run of an evaluation. The run registers the evaluation before it generates answers."""
    user = trainer_of(request)
    new = runs.NewRun(kind=EVALUATE.name, **body.dict())
    return Status(201, runs.detail(runs.start(request, new, user)))


@router.get(
    "/evaluations/{number}", response=EvaluationDetail, auth=READ, url_name="api-evaluation"
)
def read_evaluation(request: HttpRequest, number: EvaluationNumber) -> Any:
    """Return an evaluation with what its verdicts prove now."""
    return detail(evaluation_of(request, number))
