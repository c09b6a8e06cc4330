"""The leads' pages for gold: the list, the answers and the creation of gold."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import override
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import user_of
from accounts.models import User
from accounts.parameters import number
from labeling.core.access import led_project, project_for
from labeling.core.chats import conversation
from labeling.core.lettering import Lettering, as_order
from labeling.core.text import exact, shortened
from labeling.core.text import render as render_text
from labeling.gold import constraints as golds
from labeling.gold import making, qualification
from labeling.gold import shares as gold_shares
from labeling.gold.constraints import Letters
from labeling.gold.forms import GoldForm, rows_of, with_more_rows
from labeling.gold.making import GoldError
from labeling.models import Adjudication, Gold, Project, Ranking, Task
from labeling.reviewing import assignment

PAGE_SIZE = 50
ANSWERS_SHOWN = 50
STARTS_SHOWN = 9


def _context(project: Project, **more: Any) -> dict[str, Any]:
    return {"project": project, "section": "projects", "leads": True, **more}


@login_required
@require_GET
def gold_list(request: HttpRequest, slug: str) -> HttpResponse:
    """List gold, newest first, with the shares of right answers."""
    project = led_project(request, slug)
    retired = request.GET.get("retired") == "1"
    before = number(request.GET.get("before", ""))
    matching = Gold.objects.filter(project=project, retired_at__isnull=not retired)
    rows = matching.filter(pk__lt=before) if before is not None else matching
    page = list(rows.select_related("task__prompt").order_by("-pk")[: PAGE_SIZE + 1])
    shares = gold_shares.shares(project)
    context = _context(
        project,
        rows=[_row(gold, shares) for gold in page[:PAGE_SIZE]],
        older=page[PAGE_SIZE - 1].pk if len(page) > PAGE_SIZE else None,
        begun=before is not None,
        retired=retired,
        counts=_counts(project),
        needed=qualification.needed(project),
        reviewers=sorted(shares.by_reviewer.items(), key=lambda item: item[1].percent),
        capped=shares.capped,
        answers_at_most=gold_shares.MAX_ANSWERS,
        attempts=_attempts(project),
    )
    return render(request, "labeling/gold/list.html", context)


def _row(gold: Gold, shares: gold_shares.Shares) -> dict[str, Any]:
    return {
        "gold": gold,
        "prompt": shortened(str(gold.task.prompt), 140),
        "share": shares.by_gold[gold.pk],
        "skips": shares.skips.get(gold.pk, 0),
    }


def _counts(project: Project) -> dict[str, int]:
    """Return the number of active gold tasks for each purpose."""
    used = Gold.objects.filter(project=project, retired_at=None).values_list("purpose", flat=True)
    purposes = list(used)
    return {purpose: purposes.count(purpose) for purpose in Gold.Purpose.values}


def _attempts(project: Project) -> list[dict[str, Any]]:
    """Return each reviewer's newest attempt, failed ones first."""
    newest = qualification.newest_attempts(project)
    oldest = qualification.requalifying_version(project)
    rows = [{"attempt": attempt, "outdated": attempt.version.number < oldest} for attempt in newest]
    return sorted(rows, key=lambda row: (row["outdated"], row["attempt"].state != "failed"))


# --- one gold task -------------------------------------------------------------------------------


@login_required
@require_http_methods(["GET", "POST"])
def gold_detail(request: HttpRequest, slug: str, gold_id: int) -> HttpResponse:
    project = led_project(request, slug)
    gold = get_object_or_404(
        Gold.objects.select_related("task__prompt", "created_by"), pk=gold_id, project=project
    )
    form, rows, sentence = _forms(request, gold.task, gold.constraints, gold)
    if form.is_bound and sentence is None:
        try:
            making.change(
                gold=gold, constraints=rows.constraints(), by=user_of(request), **form.cleaned_data
            )
        except GoldError as error:
            sentence = str(error)
        else:
            messages.success(request, "Saved. Earlier answers are now checked against these rules.")
            return redirect("project-gold-detail", project.slug, gold.pk)
    letters = golds.letters_of(_ids(gold.task))
    with override("en"):  # reviewers see rules in their language; this page is in English
        rules = golds.sentences(gold.constraints, letters)
        answers = _answers(gold, letters, _texts(gold.task))
    context = _context(
        project,
        gold=gold,
        rules=rules,
        answers=answers,
        share=gold_shares.share_of(gold),
        **_sheet(gold.task, form, rows, sentence),
    )
    return render(request, "labeling/gold/detail.html", context, status=422 if sentence else 200)


def _texts(task: Task) -> list[str]:
    return list(task.responses.values_list("text", flat=True))


def _answers(gold: Gold, letters: Letters, texts: list[str]) -> list[dict[str, Any]]:
    lettering = Lettering.of(gold.task, letters, texts)
    answers = gold.task.rankings.filter(superseded_at=None).select_related("reviewer")
    return [
        {
            "ranking": answer,
            "order": as_order(answer.tiers, answer.cut, dict(letters)),
            "result": golds.check(answer, gold, letters),
            "note": lettering.show(answer.rationale, answer.shown_order, limit=300),
        }
        for answer in answers.order_by("-pk")[:ANSWERS_SHOWN]
    ]


@login_required
@require_POST
def gold_retire(request: HttpRequest, slug: str, gold_id: int) -> HttpResponse:
    project = led_project(request, slug)
    gold = get_object_or_404(Gold, pk=gold_id, project=project)
    if making.retire(gold=gold, by=user_of(request)):
        messages.success(
            request,
            "Retired. Reviewers no longer get this task, and their answers to it no longer count.",
        )
    return redirect("project-gold-detail", project.slug, gold.pk)


# --- creation ------------------------------------------------------------------------------------


@login_required
@require_http_methods(["GET", "POST"])
def gold_make(request: HttpRequest, slug: str, task_id: int) -> HttpResponse:
    project = led_project(request, slug)
    task = get_object_or_404(Task.objects.select_related("prompt"), pk=task_id, project=project)
    if task.kind == Task.Kind.GOLD and hasattr(task, "gold"):
        return redirect("project-gold-detail", project.slug, task.gold.pk)
    letters = golds.letters_of(_ids(task))
    starts = _starting_points(task, letters)
    chosen = next((start for start in starts if start["name"] == request.GET.get("from")), None)
    form, rows, sentence = _forms(request, task, chosen["constraints"] if chosen else [])
    if form.is_bound and sentence is None:
        try:
            gold = making.make(
                task=task, constraints=rows.constraints(), by=user_of(request), **form.cleaned_data
            )
        except GoldError as error:
            sentence = str(error)
        else:
            messages.success(request, f"Gold task {gold.pk} created.")
            return redirect("project-gold-detail", project.slug, gold.pk)
    context = _context(project, starts=starts, chosen=chosen, **_sheet(task, form, rows, sentence))
    return render(request, "labeling/gold/make.html", context, status=422 if sentence else 200)


def _starting_points(task: Task, letters: Letters) -> list[dict[str, Any]]:
    """Return orders from which a lead can derive constraints: the adjudicated order, then rankings."""
    orders: list[tuple[str, str, Any]] = [
        ("adjudication", "The adjudicated order", order)
        for order in Adjudication.objects.filter(task=task)
    ]
    rankings = task.rankings.filter(superseded_at=None).select_related("reviewer").order_by("pk")
    orders += [
        (f"ranking-{order.pk}", f"The ranking by {order.reviewer}", order)
        for order in rankings[:STARTS_SHOWN]
    ]
    return [
        {
            "name": name,
            "title": title,
            "order": as_order(order.tiers, order.cut, dict(letters)),
            "constraints": golds.constraints_from(order.tiers, order.cut),
        }
        for name, title, order in orders
    ]


def _ids(task: Task) -> list[int]:
    return list(task.places.order_by("position").values_list("response_id", flat=True))


def _forms(
    request: HttpRequest, task: Task, constraints: list[Any], gold: Gold | None = None
) -> tuple[GoldForm, Any, str | None]:
    """Return both forms, with submitted or stored values, and a sentence if submitted ones are invalid."""
    letters = golds.letters_of(_ids(task))
    if request.method == "POST" and "more" not in request.POST:
        form, rows = GoldForm(request.POST), rows_of(constraints, letters, request.POST)
        valid = form.is_valid() & rows.is_valid()
        return form, rows, None if valid else "Nothing was saved. Correct the errors below."
    posted = with_more_rows(request.POST) if request.method == "POST" else None
    initial = {
        "purpose": gold.purpose if gold else Gold.Purpose.CHECK.value,
        "explanation": gold.explanation if gold else "",
    }
    typed = {name: posted[name] for name in initial if name in posted} if posted else {}
    return GoldForm(initial=initial | typed), rows_of(constraints, letters, posted), None


def _sheet(task: Task, form: GoldForm, rows: Any, sentence: str | None) -> dict[str, Any]:
    """Return the template context for both forms: the prompt, the responses and the rows."""
    places = list(task.places.select_related("response").order_by("position"))
    letters = golds.letters_of([task_response.response_id for task_response in places])
    return {
        "task": task,
        "form": form,
        "rules_form": rows,
        "sentence": sentence,
        "messages_of_prompt": conversation(task.prompt.messages),
        "responses": [
            {
                "letter": letters[task_response.response_id],
                "model": task_response.response.model_name,
                "html": render_text(task_response.response.text),
                "exact": exact(task_response.response.text),
            }
            for task_response in places
        ],
    }


# --- qualification -------------------------------------------------------------------------------


@login_required
@require_POST
def allow_again(request: HttpRequest, slug: str, user_id: int) -> HttpResponse:
    project = led_project(request, slug)
    reviewer = get_object_or_404(User, pk=user_id)
    try:
        qualification.allow_again(project=project, reviewer=reviewer, by=user_of(request))
    except qualification.QualificationError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{reviewer} may try again, starting from the first task.")
    return redirect("project-gold", project.slug)


# --- feedback ------------------------------------------------------------------------------------


@login_required
@require_GET
def feedback(request: HttpRequest, slug: str, ranking_id: int) -> HttpResponse:
    """Show reviewers their own answer to a training task next to the known answer."""
    project = project_for(request, slug)
    ranking = get_object_or_404(
        Ranking.objects.select_related("task__prompt"),
        pk=ranking_id,
        reviewer=user_of(request),
        task__project=project,
    )
    if (feedback := golds.feedback(ranking)) is None or ranking.task.inactive:
        return redirect("review", project.slug)
    own = _ids(ranking.task)
    letters = golds.letters_of(ranking.shown_order or own)
    texts = dict(ranking.task.responses.values_list("pk", "text"))
    lettering = Lettering.of(ranking.task, letters, texts.values())
    explanation, note = lettering.show_markdown(feedback.explanation, own)
    context = {
        "project": project,
        "section": "review",
        "feedback": feedback,
        "explanation": explanation,
        "note": note,
        "order": as_order(ranking.tiers, ranking.cut, letters),
        "messages_of_prompt": conversation(ranking.task.prompt.messages),
        "responses": [
            {"letter": letter, "html": render_text(texts[pk]), "exact": exact(texts[pk])}
            for pk, letter in letters.items()
        ],
        "stage": assignment.stage(project=project, reviewer=user_of(request)),
    }
    return render(request, "labeling/gold/feedback.html", context)


@login_required
@require_GET
def own_qualification(request: HttpRequest, slug: str) -> HttpResponse:
    """Show reviewers the result of the qualification they have passed."""
    project = project_for(request, slug)
    attempt = qualification.attempt_of(project=project, reviewer=user_of(request))
    if attempt is None or attempt.state != qualification.PASSED:
        return redirect("review", project.slug)
    context = {"project": project, "section": "review", "attempt": attempt}
    return render(request, "labeling/gold/qualified.html", context)
