"""The page a reviewer spends the day on. The queue and the rankings decide; this reads and shows."""

from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import user_of
from accounts.models import User
from labeling import progress, queue
from labeling.access import project_for
from labeling.blindness import may_see_models, may_see_others
from labeling.forms import (
    Fields,
    SkipForm,
    fields_of,
    fields_of_draft,
    fields_of_ranking,
    first,
    read_answer,
    read_draft,
)
from labeling.models import Project, Ranking, Slot, Task
from labeling.rankings import InvalidRanking, revise, submit
from labeling.views.sheet import Sheet

Context = dict[str, Any]


@login_required
@require_GET
def start_review(request: HttpRequest) -> HttpResponse:
    """The only project's ranking page; the start page when there is a choice to make."""
    projects = list(Project.objects.visible_to(user_of(request)).distinct()[:2])
    return redirect("review", projects[0].slug) if len(projects) == 1 else redirect("home")


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def review(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    if request.method == "POST":
        return _submitted(request, project)
    reviewer = user_of(request)
    published = project.current_version_id is not None
    slot = queue.claim(project=project, reviewer=reviewer) if published else None
    if slot is None:
        return render(request, "labeling/review_empty.html", _bar(project, reviewer))
    queue.mark_shown(slot_id=slot.pk, reviewer=reviewer)
    return _form(request, project, slot, slot.shown_order or [], fields_of_draft(slot.draft))


def _bar(project: Project, reviewer: User) -> Context:
    newest = Ranking.objects.filter(
        reviewer=reviewer,
        task__project=project,
        superseded_at=None,
        source=Ranking.Source.REVIEW,
    ).order_by("-id")
    return {
        "project": project,
        "section": "review",
        "progress": progress.of_reviewer(project, reviewer),
        "last": newest.values_list("pk", flat=True).first(),
    }


def _form(
    request: HttpRequest,
    project: Project,
    slot: Slot,
    shown_order: list[int],
    fields: Fields,
    errors: dict[str, str] | None = None,
    skip_form: SkipForm | None = None,
) -> HttpResponse:
    sheet = Sheet(
        task=slot.task,
        shown_order=shown_order,
        version=project.current_version,
        fields=fields,
        errors=errors,
    )
    own = slot.reviewer_id == user_of(request).pk and isinstance(slot.draft, dict)
    context = {
        **_bar(project, user_of(request)),
        "slot": slot,
        "sheet": sheet,
        "skip_form": skip_form or SkipForm(auto_id="skip_%s"),
        "draft_key": f"{user_of(request).pk}-slot-{slot.pk}",
        "draft_at": slot.draft.get("at", 0) if own and slot.draft else 0,
        "renew_seconds": max(20, project.lease_minutes * 60 // 3),
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if errors else HTTPStatus.OK
    return render(request, "labeling/review.html", context, status=status)


def _shown_order(fields: Fields, task: Task) -> list[int]:
    """The order the form showed, when it is the task's; the task's own order for a forged one."""
    own = list(task.places.order_by("position").values_list("response_id", flat=True))
    said = [int(i) for i in first(fields, "shown_order").split(",") if i.isascii() and i.isdigit()]
    return said if sorted(said) == sorted(own) else own


def _submitted(request: HttpRequest, project: Project) -> HttpResponse:
    fields, reviewer = fields_of(request.POST), user_of(request)
    number = first(fields, "slot")
    slot = get_object_or_404(
        Slot.objects.select_related("task__prompt"),
        pk=int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0,
        project=project,
    )
    shown_order = _shown_order(fields, slot.task)
    criteria = project.current_version.criteria.all() if project.current_version else []
    answer = read_answer(fields, shown_order=shown_order, criteria=criteria)
    if answer.errors:
        return _form(request, project, slot, shown_order, fields, answer.errors)
    try:
        submission = submit(slot_id=slot.pk, reviewer=reviewer, **answer.content())
    except InvalidRanking as invalid:
        return _form(request, project, slot, shown_order, fields, invalid.errors)
    if submission.extra:
        messages.info(
            request,
            "Someone else had taken this task when your reservation ran out. Your ranking is kept "
            "as an extra one.",
        )
    return redirect("review", project.slug)


@login_required
@require_POST
def skip(request: HttpRequest, slug: str, slot_id: int) -> HttpResponse:
    project = project_for(request, slug)
    form = SkipForm(request.POST, auto_id="skip_%s")
    if not form.is_valid():
        messages.error(request, " ".join(str(e) for errors in form.errors.values() for e in errors))
    elif not queue.skip(slot_id=slot_id, reviewer=user_of(request), **form.cleaned_data):
        messages.info(request, "That task was no longer reserved for you, so nothing was skipped.")
    return redirect("review", project.slug)


@login_required
@require_POST
def save_draft(request: HttpRequest, slug: str, slot_id: int) -> HttpResponse:
    """204 when it was kept, 409 when the slot is someone else's by now."""
    project_for(request, slug)
    if (draft := read_draft(request.body)) is None:
        return HttpResponse("This is no draft, or too long.", status=HTTPStatus.BAD_REQUEST)
    kept = queue.save_draft(slot_id=slot_id, reviewer=user_of(request), draft=draft)
    return HttpResponse(status=HTTPStatus.NO_CONTENT if kept else HTTPStatus.CONFLICT)


@login_required
@require_POST
def renew(request: HttpRequest, slug: str, slot_id: int) -> HttpResponse:
    project_for(request, slug)
    held = queue.renew(slot_id=slot_id, reviewer=user_of(request))
    return HttpResponse(status=HTTPStatus.NO_CONTENT if held else HTTPStatus.CONFLICT)


# --- own history -----------------------------------------------------------------------------------

PAGE = 50


@login_required
@require_GET
def history(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    before = request.GET.get("before", "")
    own = Ranking.objects.filter(
        reviewer=user_of(request), task__project=project, superseded_at=None
    ).select_related("task__prompt")
    if before.isascii() and before.isdigit() and len(before) < 19:
        own = own.filter(pk__lt=int(before))
    rankings = list(own.order_by("-id")[: PAGE + 1])
    context = {
        **_bar(project, user_of(request)),
        "rankings": rankings[:PAGE],
        "older": rankings[PAGE - 1].pk if len(rankings) > PAGE else None,
        "newer": bool(before),
        "sees_others": any(
            may(user_of(request), project, one.task)
            for one in rankings[:1]
            for may in (may_see_others, may_see_models)
        ),
    }
    return render(request, "labeling/history.html", context)


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def own_ranking(request: HttpRequest, slug: str, ranking_id: int) -> HttpResponse:
    """Change one's own ranking: the old one stays in the books, the new one supersedes it."""
    project = project_for(request, slug)
    ranking = get_object_or_404(
        Ranking.objects.select_related("task__prompt", "guideline_version__guideline"),
        pk=ranking_id,
        reviewer=user_of(request),
        task__project=project,
        superseded_at=None,
    )
    if request.method == "POST":
        return _revised(request, project, ranking)
    fields = fields_of_ranking(
        ranking.tiers, ranking.cut, ranking.ratings, ranking.flags, ranking.rationale
    )
    fields["active_seconds"] = [str(ranking.active_seconds)]
    return _revision_form(request, project, ranking, fields)


def _order_of(ranking: Ranking) -> list[int]:
    own = list(ranking.task.places.order_by("position").values_list("response_id", flat=True))
    return ranking.shown_order if sorted(ranking.shown_order) == sorted(own) else own


def _revision_form(
    request: HttpRequest,
    project: Project,
    ranking: Ranking,
    fields: Fields,
    errors: dict[str, str] | None = None,
) -> HttpResponse:
    sheet = Sheet(
        task=ranking.task,
        shown_order=_order_of(ranking),
        version=project.current_version,
        fields=fields,
        errors=errors,
    )
    context = {
        "project": project,
        "section": "review",
        "ranking": ranking,
        "sheet": sheet,
        "draft_key": f"{ranking.reviewer_id}-ranking-{ranking.pk}",
        "draft_at": 0,
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if errors else HTTPStatus.OK
    return render(request, "labeling/review.html", context, status=status)


def _revised(request: HttpRequest, project: Project, ranking: Ranking) -> HttpResponse:
    fields = fields_of(request.POST)
    criteria = project.current_version.criteria.all() if project.current_version else []
    answer = read_answer(fields, shown_order=_order_of(ranking), criteria=criteria)
    if answer.errors:
        return _revision_form(request, project, ranking, fields, answer.errors)
    try:
        revise(ranking=ranking, reviewer=user_of(request), **answer.content())
    except InvalidRanking as invalid:
        return _revision_form(request, project, ranking, fields, invalid.errors)
    messages.success(request, "The revision replaces what you had sent.")
    return redirect("review-history", project.slug)
