"""The queries of the GraphQL schema. There are no mutations: changes go through REST."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import strawberry
from django.db.models import QuerySet
from django.http import Http404
from strawberry.extensions import MaxAliasesLimiter, MaxTokensLimiter, QueryDepthLimiter
from strawberry.types import Info

from accounts.parameters import number
from api.access import own_projects, project_led
from api.graphql import types
from api.graphql.batching import FIRST, Nested, size, with_nested
from api.graphql.limits import MOST_ALIASES, MOST_DEPTH, MOST_TOKENS

T = TypeVar("T")


class Refused(Exception):  # noqa: N818
    """Raised for a wrong argument. The text is a sentence for the sender of the query."""


@strawberry.type
class Page(Generic[T]):
    items: list[T]
    next: strawberry.ID | None = strawberry.field(
        description="Value of `after` for the next page; null on the last page."
    )


def _page(
    info: Info,
    rows: QuerySet[Any],
    kind: Any,
    nested: Mapping[str, Nested],
    *,
    first: int,
    after: strawberry.ID | None,
    newest_first: bool = True,
) -> Any:
    count = size(first)
    rows = rows.order_by("-pk" if newest_first else "pk")
    if after is not None:
        rows = rows.filter(**{"pk__lt" if newest_first else "pk__gt": _number(after, "after")})
    found = list(with_nested(rows, nested, info)[: count + 1])
    items = found[:count]
    following = strawberry.ID(str(items[-1].pk)) if len(found) > count else None
    return Page(items=[kind.of(row) for row in items], next=following)


def _number(text: str, name: str) -> int:
    value = number(str(text))
    if value is None:
        raise Refused(f"{name} must be the id of a row.")
    return value


def _in_projects(info: Info, rows: QuerySet[Any], project: str | None) -> QuerySet[Any]:
    """Return the rows of the projects that the token may read, or of one of them."""
    projects = own_projects(info.context["request"])
    if project is not None:
        projects = projects.filter(slug=project)
    return rows.filter(project__in=projects)


def _of_project(info: Info, slug: str) -> Any:
    try:
        return project_led(info.context["request"], slug)
    except Http404:
        raise Refused(f"There is no project {slug[:60]!r}, or you may not see it.") from None


Rows = Callable[[Any], QuerySet[Any]]


@strawberry.type
class Query:
    @strawberry.field(description="The projects that the owner of the token leads, oldest first.")
    def projects(
        self, info: Info, first: int = FIRST, after: strawberry.ID | None = None
    ) -> Page[types.Project]:
        rows = own_projects(info.context["request"])
        return _page(
            info, rows, types.Project, types.IN_PROJECT, first=first, after=after,
            newest_first=False,
        )  # fmt: skip

    @strawberry.field(description="A project by its slug.")
    def project(self, info: Info, slug: str) -> types.Project | None:
        rows = own_projects(info.context["request"]).filter(slug=slug)
        row = with_nested(rows, types.IN_PROJECT, info).first()
        return types.Project.of(row) if row else None

    @strawberry.field(description="The tasks of a project, oldest first.")
    def tasks(
        self, info: Info, project: str, first: int = FIRST, after: strawberry.ID | None = None
    ) -> Page[types.Task]:
        rows = types.task_rows(info.context["request"]).filter(project=_of_project(info, project))
        return _page(
            info, rows, types.Task, types.IN_TASK, first=first, after=after, newest_first=False
        )

    @strawberry.field(description="The current rankings of a project, oldest first.")
    def rankings(
        self, info: Info, project: str, first: int = FIRST, after: strawberry.ID | None = None
    ) -> Page[types.Ranking]:
        rows = types.ranking_rows(info.context["request"])
        rows = rows.filter(task__project=_of_project(info, project))
        return _page(info, rows, types.Ranking, {}, first=first, after=after, newest_first=False)

    @strawberry.field(description="Runs, newest first.")
    def runs(
        self,
        info: Info,
        project: str | None = None,
        state: str | None = None,
        first: int = FIRST,
        after: strawberry.ID | None = None,
    ) -> Page[types.Run]:
        rows = types.run_rows(info.context["request"])
        if project is not None:
            rows = rows.filter(project__slug=project)
        if state is not None:
            rows = rows.filter(state=state)
        return _page(info, rows, types.Run, {}, first=first, after=after)

    @strawberry.field(description="Language models, newest first.")
    def models(
        self,
        info: Info,
        project: str | None = None,
        first: int = FIRST,
        after: strawberry.ID | None = None,
    ) -> Page[types.Model]:
        rows = _in_projects(info, types.model_rows(info.context["request"]), project)
        return _page(info, rows, types.Model, types.IN_MODEL, first=first, after=after)

    @strawberry.field(description="Evaluations, newest first.")
    def evaluations(
        self,
        info: Info,
        project: str | None = None,
        first: int = FIRST,
        after: strawberry.ID | None = None,
    ) -> Page[types.Evaluation]:
        rows = _in_projects(info, types.evaluation_rows(info.context["request"]), project)
        return _page(info, rows, types.Evaluation, {}, first=first, after=after)


schema = strawberry.Schema(
    query=Query,
    extensions=[
        lambda: QueryDepthLimiter(max_depth=MOST_DEPTH),
        lambda: MaxAliasesLimiter(max_alias_count=MOST_ALIASES),
        lambda: MaxTokensLimiter(max_token_count=MOST_TOKENS),
    ],
)
