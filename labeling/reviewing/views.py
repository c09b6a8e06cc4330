"""The review page. This module only reads requests and renders pages; other modules decide.

The page works with plain forms. With JavaScript, it fetches the next sheet while the reviewer reads the
current one, shows it immediately after submission, and receives the server's answers as JSON.
"""

from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import user_of
from accounts.models import User
from accounts.parameters import number
from labeling.core.access import leads, project_for
from labeling.core.response_names import field_by_name, fields_by_id, page_names
from labeling.gold import constraints, qualification
from labeling.guidelines.confirmations import unconfirmed
from labeling.guidelines.versions import criteria_of
from labeling.models import Criterion, Project, Ranking, Skip, Slot, Task
from labeling.projects import staffing
from labeling.queue import answering, slots
from labeling.rankings import recording
from labeling.rankings import skip as skipping
from labeling.rankings import undo as undoing
from labeling.rankings.content import Errors, Policy
from labeling.rankings.forms import (
    Answer,
    Fields,
    SkipForm,
    fields_of,
    fields_of_draft,
    first,
    read_answer,
    read_draft,
)
from labeling.reviewing import assignment, progress
from labeling.reviewing.confirmation import confirmation_page
from labeling.reviewing.history import as_draft, open_until
from labeling.reviewing.sheet import Sheet
from labeling.reviewing.skeleton import sheet_html

Context = dict[str, Any]


@login_required
@require_GET
def start_review(request: HttpRequest) -> HttpResponse:
    """Redirect to the ranking page of the user's only project, or to the home page."""
    projects = list(Project.objects.visible_to(user_of(request)).distinct()[:2])
    return redirect("review", projects[0].slug) if len(projects) == 1 else redirect("home")


def _current(project: Project, reviewer: User) -> Slot | None:
    return assignment.current(project=project, reviewer=reviewer)


def _ahead(project: Project, reviewer: User) -> Slot | None:
    return assignment.ahead(project=project, reviewer=reviewer)


# --- showing -------------------------------------------------------------------------------------


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def review(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    if request.method == "POST":
        return _submit(request, project)
    reviewer = user_of(request)
    if confirmation := unconfirmed(project=project, reviewer=reviewer):
        return confirmation_page(request, project, confirmation)
    published = project.current_version_id is not None
    slot = _current(project, reviewer) if published else None
    if slot is None:
        stage = assignment.stage(project=project, reviewer=reviewer)
        context = {**_bar(project, reviewer), "stage": stage}
        if not published:
            context["leads"] = leads(reviewer, project)
        if published and stage is None:
            context["left"] = staffing.nothing_left(project, reviewer)
            context["shortage"] = staffing.shortage(project)
        return render(request, "labeling/reviewing/empty.html", context)
    slots.mark_shown(slot_id=slot.pk, reviewer=reviewer)
    return _page(request, project, _sheet(project, slot))


@login_required
@never_cache
@require_GET
def next_sheet(request: HttpRequest, slug: str) -> HttpResponse:
    """Return the HTML of the sheet after the current one, or status 204 if there is none.

    Its slot is leased ahead. It counts as shown only when the page reports this.
    """
    project, reviewer = project_for(request, slug), user_of(request)
    may = unconfirmed(project=project, reviewer=reviewer) is None
    slot = _ahead(project, reviewer) if may else None
    answer = HttpResponse(status=HTTPStatus.NO_CONTENT)
    if slot is not None:
        answer = HttpResponse(_html(request, project, slot))
    answer["X-CSRFToken"] = get_token(request)
    return answer


def _last(project: Project, reviewer: User) -> Ranking | None:
    own = Ranking.objects.filter(
        reviewer=reviewer,
        task__project=project,
        superseded_at=None,
        source=Ranking.Source.REVIEW,
    )
    return own.select_related("task__project").order_by("-id").first()


def _undo_context(project: Project, ranking: Ranking | None, skip: Skip | None) -> Context | None:
    """Return the URL that undoes the last ranking or skip and the seconds left for it, or None."""
    if skip is not None and (ranking is None or ranking.created_at < skip.created_at):
        url = reverse("review-undo-skip", args=[project.slug, skip.pk])
        return {"url": url, "seconds": skipping.undo_seconds(skip), "skipped": True}
    if ranking is None or (url_of_ranking := _undo_url(project, ranking)) is None:
        return None
    return {"url": url_of_ranking, "seconds": undoing.undo_seconds(ranking)}


def _bar(project: Project, reviewer: User, newest: Ranking | None = None) -> Context:
    if newest is None:
        newest, counted = _last(project, reviewer), progress.of_reviewer(project, reviewer)
        undo = _undo_context(project, newest, skipping.newest(project, reviewer))
    else:
        undo = _undo_context(project, newest, None)
        counted = progress.after_ranking(project, reviewer, newest)
    return {
        "project": project,
        "section": "review",
        "progress": counted,
        "last": newest,
        "undo": undo,
        "can_undo": undo is not None,
        "can_revise": newest is not None and open_until(newest) is not None,
    }


def _sheet(project: Project, slot: Slot) -> Sheet:
    """Return the sheet for a slot, with the values of its draft."""
    order = slot.shown_order or []
    return Sheet(
        task=slot.task,
        shown_order=order,
        version=project.current_version,
        fields=fields_by_id(fields_of_draft(slot.draft), page_names(slot.task_id, order)),
        policy=Policy.of(project),
        slot=slot,
    )


def _sheet_again(
    project: Project, slot: Slot, order: Sequence[int], fields: Fields, errors: Errors
) -> Sheet:
    """Return the sheet for an invalid form, with the submitted values and the errors."""
    number_shown = number(first(fields, "guideline_version"))
    return Sheet(
        task=slot.task,
        shown_order=order,
        version=project.current_version and recording.version_shown(project, number_shown),
        fields=fields,
        errors=errors,
        policy=Policy.of(project),
        slot=slot,
    )


def _sheet_context(request: HttpRequest, project: Project, sheet: Sheet) -> Context:
    slot, reviewer = sheet.slot, user_of(request)
    draft = slot.draft if slot and slot.reviewer_id == reviewer.pk else None
    return {
        "project": project,
        "slot": slot,
        "sheet": sheet,
        "stage": assignment.stage_of(slot) if slot else None,
        "draft_key": f"{reviewer.pk}-slot-{slot.pk if slot else 0}",
        "draft_at": draft.get("at", 0) if isinstance(draft, dict) else 0,
        "renew_seconds": max(20, project.lease_minutes * 60 // 3),
    }


def _page(
    request: HttpRequest, project: Project, sheet: Sheet, skip_form: SkipForm | None = None
) -> HttpResponse:
    bar = _bar(project, user_of(request))
    context = {
        **bar,
        **_sheet_context(request, project, sheet),
        "skip_form": skip_form or SkipForm(auto_id="skip_%s"),
    }
    refused = sheet.errors or skip_form
    status = HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.OK
    return render(request, "labeling/reviewing/review.html", context, status=status)


def _html(request: HttpRequest, project: Project, slot: Slot, sheet: Sheet | None = None) -> str:
    if sheet is None and (html := sheet_html(request, project, slot, _sheet_context)):
        return html
    context = _sheet_context(request, project, sheet or _sheet(project, slot))
    return render_to_string("labeling/reviewing/sheet.html", context, request)


def shown_order(fields: Fields, own: list[int]) -> list[int]:
    """Return the order in which the form showed the responses, or `own` if that order is not valid."""
    order = [number(text) for text in first(fields, "shown_order").split(",")]
    return [i for i in order if i] if sorted(i or 0 for i in order) == sorted(own) else own


# --- sending -------------------------------------------------------------------------------------


def _submit(request: HttpRequest, project: Project) -> HttpResponse:
    fields, reviewer = fields_of(request.POST), user_of(request)
    loaded = answering.slot_to_answer(project, number(first(fields, "slot")) or 0, reviewer)
    if loaded is None:
        raise Http404
    slot = loaded.slot
    fields = fields_by_id(fields, page_names(slot.task_id, loaded.response_ids))
    order = shown_order(fields, loaded.response_ids)
    answer = _read(project, order, fields)
    try:
        if answer.errors:
            raise recording.InvalidRanking(answer.errors)
        submission = recording.submit(
            slot_id=slot.pk,
            reviewer=reviewer,
            content=answer.content,
            idempotency_key=answer.idempotency_key,
            guideline_version=answer.guideline_version,
            loaded_slot=loaded,
        )
    except recording.InvalidRanking as invalid:
        return _error_response(
            request, project, _sheet_again(project, slot, order, fields, invalid.errors)
        )
    if request.accepts("text/html"):
        if remark := _remark(submission, slot.task):
            messages.info(request, remark)
        return redirect(
            _page_to_read(project, submission.ranking) or reverse("review", args=[project.slug])
        )
    return _success_response(request, project, submission, first(fields, "shown"))


def _read(project: Project, order: Sequence[int], fields: Fields) -> Answer:
    if project.current_version_id is None:
        criteria: Sequence[Criterion] = []
    else:
        number_shown = number(first(fields, "guideline_version"))
        criteria = list(criteria_of(recording.version_shown(project, number_shown)))
    return read_answer(
        fields,
        shown_order=order,
        criteria=criteria,
        policy=Policy.of(project),
    )


def _page_to_read(project: Project, ranking: Ranking) -> str | None:
    """Return the URL of a page to show before the next task, or None.

    It is the feedback in training, or the result of a qualification.
    """
    if ranking.task.kind != Task.Kind.GOLD:
        return None
    if constraints.feedback(ranking) is not None:
        return reverse("review-feedback", args=[project.slug, ranking.pk])
    if qualification.ended_with(ranking) is not None:
        return reverse("review-qualification", args=[project.slug])
    return None


def _remark(submission: recording.Submission, task: Task) -> str:
    """Return a note for the reviewer about the ranking they have sent, which is usually empty."""
    if task.inactive:
        return _(
            "A lead has withdrawn this task. Your ranking is kept and counts if the task is restored."
        )
    if submission.extra:
        return _(
            "Your reservation expired and someone else took this task. Your ranking is kept "
            "as an extra one."
        )
    return ""


def _error_response(request: HttpRequest, project: Project, sheet: Sheet) -> HttpResponse:
    if request.accepts("text/html"):
        return _page(request, project, sheet)
    errors = {field_by_name(name, sheet.names): text for name, text in sheet.errors.items()}
    reply: Context = {"errors": errors}
    if sheet.slot:
        reply["sheet"] = _html(request, project, sheet.slot, sheet)
    return JsonResponse(reply, status=HTTPStatus.UNPROCESSABLE_ENTITY)


def _success_response(
    request: HttpRequest, project: Project, submission: recording.Submission, shown_slot: str
) -> HttpResponse:
    """Return the result of a submission as JSON, with the next sheet that the page does not have yet.

    `shown_slot` is the id of the slot that the page shows now, or empty. In the result, `go` is the URL
    of a page to show before the next sheet.
    """
    if go := _page_to_read(project, submission.ranking):
        return JsonResponse({"go": go, "csrf": get_token(request)})
    reviewer, sheet = user_of(request), None
    confirm = unconfirmed(project=project, reviewer=reviewer) is not None
    slot = None if confirm else _slot_for_next_sheet(project, reviewer, number(shown_slot))
    if slot is not None:
        sheet = _html(request, project, slot)
    return JsonResponse(
        {
            "message": _remark(submission, submission.ranking.task),
            "undo": _undo_url(project, submission.ranking),
            "sheet": sheet,
            "confirm": confirm,
            **_progress_context(request, project, submission.ranking),
        }
    )


def _slot_for_next_sheet(project: Project, reviewer: User, shown_slot: int | None) -> Slot | None:
    """Return the slot for the next sheet: the slot ahead if the page already has the current one."""
    if shown_slot is not None:
        current, following = assignment.advance(
            project=project, reviewer=reviewer, shown_slot=shown_slot
        )
        return following if current is not None and current.pk == shown_slot else current
    slot = _current(project, reviewer)
    if slot is not None:
        slots.mark_shown(slot_id=slot.pk, reviewer=reviewer)
    return slot


def _progress_context(
    request: HttpRequest, project: Project, newest: Ranking | None = None
) -> Context:
    """Return what changes on the page with every ranking: the progress line and the CSRF token."""
    bar = _bar(project, user_of(request), newest)
    return {
        "csrf": get_token(request),
        "progress": render_to_string("labeling/reviewing/progress.html", bar, request),
    }


def _undo_url(project: Project, ranking: Ranking) -> str | None:
    if not undoing.can_undo(ranking):
        return None
    return reverse("review-undo", args=[project.slug, ranking.pk])


@login_required
@require_POST
def undo(request: HttpRequest, slug: str, ranking_id: int) -> HttpResponse:
    """Undo the last ranking. The reviewer gets the task back with the values of the ranking."""
    project, reviewer = project_for(request, slug), user_of(request)
    ranking = get_object_or_404(
        Ranking.objects.select_related("task"),
        pk=ranking_id,
        reviewer=reviewer,
        task__project=project,
    )
    undo_change = partial(undoing.undo, ranking=ranking, reviewer=reviewer, draft=as_draft(ranking))
    return _undo_response(request, project, undo_change)


@login_required
@require_POST
def undo_skip(request: HttpRequest, slug: str, skip_id: int) -> HttpResponse:
    """Undo a skip. The reviewer gets the task back."""
    project, reviewer = project_for(request, slug), user_of(request)
    undo_change = partial(skipping.undo, skip_id=skip_id, project=project, reviewer=reviewer)
    return _undo_response(request, project, undo_change)


def _undo_response(
    request: HttpRequest, project: Project, undo_change: Callable[[], Slot]
) -> HttpResponse:
    reviewer = user_of(request)
    try:
        slot = undo_change()
    except recording.InvalidRanking as invalid:
        if request.accepts("text/html"):
            messages.error(request, str(invalid))
            return redirect("review", project.slug)
        return JsonResponse({"errors": invalid.errors}, status=HTTPStatus.CONFLICT)
    progress.forget(project, reviewer)
    if request.accepts("text/html"):
        return redirect("review", project.slug)
    return JsonResponse(
        {"sheet": _html(request, project, slot), **_progress_context(request, project)}
    )


@login_required
@require_POST
def skip(request: HttpRequest, slug: str, slot_id: int) -> HttpResponse:
    project = project_for(request, slug)
    form = SkipForm(request.POST, auto_id="skip_%s")
    if not form.is_valid():
        slot = _current(project, user_of(request))
        if slot is not None and slot.pk == slot_id:
            return _page(request, project, _sheet(project, slot), form)
    if not form.is_valid() or not slots.skip(
        slot_id=slot_id, project=project, reviewer=user_of(request), **form.cleaned_data
    ):
        messages.info(
            request, _("This task was no longer reserved for you, so it was not skipped.")
        )
    return redirect("review", project.slug)


@login_required
@require_POST
def save_draft(request: HttpRequest, slug: str, slot_id: int) -> HttpResponse:
    """Save a draft. Return 204, or 409 with a reason if the reviewer no longer holds the slot."""
    project = project_for(request, slug)
    if (draft := read_draft(request.body)) is None:
        return HttpResponse(_("Not a valid draft, or too long."), status=HTTPStatus.BAD_REQUEST)
    saved = slots.save_draft(
        slot_id=slot_id, project=project, reviewer=user_of(request), draft=draft
    )
    return _lease_response(saved, slot_id, user_of(request))


@login_required
@require_POST
def renew(request: HttpRequest, slug: str, slot_id: int) -> HttpResponse:
    project = project_for(request, slug)
    held = slots.renew(slot_id=slot_id, project=project, reviewer=user_of(request))
    return _lease_response(held, slot_id, user_of(request))


def _lease_response(held: bool, slot_id: int, reviewer: User) -> HttpResponse:
    if held:
        return HttpResponse(status=HTTPStatus.NO_CONTENT)
    reason = slots.why_lost(slot_id=slot_id, reviewer=reviewer)
    return JsonResponse({"reason": reason}, status=HTTPStatus.CONFLICT)
