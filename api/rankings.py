"""Rankings: a feed for programs that copy them, in the order in which they became visible."""

from datetime import datetime
from typing import Annotated, Any

from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Path, Query, Router, Schema
from pydantic import Field

from accounts.api import READ
from api.access import project_led
from api.forms import invalid
from api.pages import After, Limit, Number, Page, page
from api.projects import Slug
from labeling.models import Project, Ranking

router = Router(tags=["rankings"])

# Ids are assigned before a transaction commits, so a row can appear after one with a higher id. A reader
# that continues after the highest id would miss it. A row is therefore listed once every transaction
# that began before its own has ended. `age` is negative for rows older than two billion transactions.
_SETTLED = """
age("labeling_ranking"."xmin") < 0 OR age("labeling_ranking"."xmin") >
  pg_snapshot_xmax(pg_current_snapshot())::text::bigint
  - pg_snapshot_xmin(pg_current_snapshot())::text::bigint
"""


class RankingItem(Schema):
    id: int
    task: int
    reviewer: str = Field(description="Username.")
    guideline_version: int | None = Field(description="Number of the version that applied.")
    tiers: list[list[int]] = Field(description="Ids of responses, best first. A tier is a tie.")
    cut: int | None = Field(
        description="Number of tiers above the line below which responses are unacceptable."
    )
    strength: float | None
    ratings: dict[str, dict[str, int]]
    flags: dict[str, list[str]]
    rationale: str
    shown_order: list[int]
    active_seconds: float
    source: Ranking.Source
    supersedes: int | None
    superseded_at: datetime | None
    removed_at: datetime | None = Field(description="When its reviewer's data was withdrawn.")
    created_at: datetime


RankingNumber = Annotated[Number, Path()]


def rows_of(project: Project) -> QuerySet[Ranking]:
    rows = Ranking.objects.filter(task__project=project)
    return rows.select_related("reviewer", "guideline_version")


def settled(rows: QuerySet[Ranking]) -> QuerySet[Ranking]:
    """Return the rows before which no other row can appear any more."""
    condition: Any = RawSQL(_SETTLED, (), output_field=BooleanField())  # noqa: S611
    return rows.filter(condition)


def item(ranking: Ranking) -> dict[str, Any]:
    version = ranking.guideline_version
    names = (
        "tiers", "cut", "strength", "ratings", "flags", "rationale", "shown_order",
        "active_seconds", "source", "superseded_at", "removed_at", "created_at",
    )  # fmt: skip
    return {
        "id": ranking.pk,
        "task": ranking.task_id,
        "reviewer": ranking.reviewer.username,
        "guideline_version": version.number if version else None,
        "supersedes": ranking.supersedes_id,
        **{name: getattr(ranking, name) for name in names},
    }


@router.get(
    "/projects/{slug}/rankings", response=Page[RankingItem], auth=READ, url_name="api-rankings"
)
def list_rankings(
    request: HttpRequest,
    slug: Slug,
    since: Annotated[
        datetime | None, Query(description="Only rankings made at this time or later.")
    ] = None,
    superseded: Annotated[bool, Query(description="Also list superseded rankings.")] = False,
    after: After = None,
    limit: Limit = 100,
) -> Any:
    """List the rankings of a project that the owner of the token leads, in the order of their ids.

    To follow a project, repeat the request with the id of the last ranking as `after`. No ranking is
    missed. With `superseded`, a revision is followed by its id in `supersedes`.
    """
    rows = settled(rows_of(project_led(request, slug)))
    if since is not None:
        if since.tzinfo is None:
            raise invalid([{"at": "query.since", "what": "Add a time zone, such as Z for UTC."}])
        rows = rows.filter(created_at__gte=since)
    if not superseded:
        rows = rows.filter(superseded_at=None)
    return page(rows, item, after=after, limit=limit)


@router.get(
    "/projects/{slug}/rankings/{number}",
    response=RankingItem,
    auth=READ,
    url_name="api-ranking",
)
def read_ranking(request: HttpRequest, slug: Slug, number: RankingNumber) -> Any:
    """Return a ranking."""
    return item(get_object_or_404(rows_of(project_led(request, slug)), pk=number))
