"""Snapshots: freeze the rankings of a project, and read what was frozen."""

from datetime import datetime
from typing import Annotated, Any

from django.http import FileResponse, Http404, HttpRequest
from django.http.response import HttpResponseBase
from ninja import Path, Query, Router, Schema, Status
from pydantic import Field

from accounts.api import READ, TRAIN, Problem
from api.access import (
    check_trainer,
    own_projects,
    project_led,
    snapshot_of,
    to_change,
    trainer_of,
)
from api.forms import check, invalid, refuse_unknown
from api.pages import After, Limit, Number, Page, Strict, page
from reward.forms import SnapshotForm
from reward.models import Snapshot
from reward.preferences.snapshots import SnapshotError, freeze

router = Router(tags=["snapshots"])


class SnapshotItem(Schema):
    id: int
    project: str
    content_hash: str
    rankings: int
    created_by: str | None
    created_at: datetime


class SnapshotDetail(SnapshotItem):
    filter: dict[str, Any]
    counts: dict[str, Any] = Field(description="What was used, and what was left out and why.")


class NewSnapshot(Strict):
    project: str = Field(max_length=60, description="Slug.")
    filter: dict[str, Any] = Field({}, max_length=50, description="As in the form for snapshots.")


SnapshotNumber = Annotated[Number, Path()]


def item(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.pk,
        "project": snapshot.project.slug,
        "content_hash": snapshot.content_hash,
        "rankings": snapshot.rankings,
        "created_by": snapshot.created_by.username if snapshot.created_by else None,
        "created_at": snapshot.created_at,
    }


def detail(snapshot: Snapshot) -> dict[str, Any]:
    return {**item(snapshot), "filter": snapshot.filter, "counts": snapshot.counts}


@router.get("/snapshots", response=Page[SnapshotItem], auth=READ, url_name="api-snapshots")
def list_snapshots(
    request: HttpRequest,
    project: Annotated[str, Query(max_length=60, description="Slug of a project.")] = "",
    after: After = None,
    limit: Limit = 100,
) -> Any:
    """List the snapshots of the projects that the owner of the token leads, newest first."""
    projects = own_projects(request)
    if project:
        projects = projects.filter(slug=project)
    rows = Snapshot.objects.filter(project__in=projects).select_related("project", "created_by")
    return page(rows, item, after=after, limit=limit, newest_first=True)


@router.post("/snapshots", response={201: SnapshotDetail}, auth=TRAIN, url_name="api-snapshots")
def create_snapshot(request: HttpRequest, body: NewSnapshot) -> Any:
    """Freeze the rankings of a project. The same filter and rankings give the same snapshot."""
    user, project = trainer_of(request), project_led(request, body.project)
    check_trainer(user, project)
    defaults = {
        name: field.initial
        for name, field in SnapshotForm.base_fields.items()
        if field.initial is not None
    }
    form = SnapshotForm({**defaults, **body.filter}, project=project)
    refuse_unknown(form, body.filter, at="filter")
    try:
        check(form, at="filter")
        return Status(201, detail(freeze(project=project, filter=form.filter, by=user)))
    except SnapshotError as error:
        raise Problem(409, str(error)) from None
    except (TypeError, AttributeError):
        problem = {"at": "filter", "what": "A value has the wrong type."}
        raise invalid([problem]) from None


@router.get("/snapshots/{number}", response=SnapshotDetail, auth=READ, url_name="api-snapshot")
def read_snapshot(request: HttpRequest, number: SnapshotNumber) -> Any:
    """Return a snapshot with its filter and its counts."""
    return detail(snapshot_of(request, number))


@router.get("/snapshots/{number}/file", auth=READ, url_name="api-snapshot-file")
def read_file(request: HttpRequest, number: SnapshotNumber) -> HttpResponseBase:
    """Download the rankings of a snapshot as Parquet. Trainers only."""
    _, snapshot = to_change(request, snapshot_of, number)
    if not snapshot.file.is_file():
        raise Http404(f"The file of snapshot {snapshot.pk} is missing.")
    name = f"{snapshot.project.slug}-snapshot-{snapshot.pk}.parquet"
    return FileResponse(snapshot.file.open("rb"), as_attachment=True, filename=name)
