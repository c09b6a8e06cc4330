"""The pages on which leads decide disputes, without seeing who made which ranking."""

import random
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from accounts.access import user_of
from labeling.core.access import led_project
from labeling.core.blindness import may_see_models
from labeling.core.chats import conversation
from labeling.core.lettering import Lettering, as_order, letters_of
from labeling.core.response_names import field_by_name, page_names
from labeling.core.text import exact, shortened
from labeling.core.text import render as render_text
from labeling.disputes.adjudication import (
    CannotDecide,
    causes,
    decide,
    mark,
    next_after,
    open_disputes,
    order_for,
)
from labeling.disputes.forms import OutcomeForm, ranks_of
from labeling.models import Adjudication, Project, Prompt, Ranking, Task
from labeling.quality.measures import Disagreement, quality_of
from labeling.queue.gold_copies import copies_of
from labeling.queue.withdrawals import among
from labeling.rankings.content import FLAGS

PAGE_SIZE = 25


@login_required
@require_GET
def disputes(request: HttpRequest, slug: str) -> HttpResponse:
    """List open disputes, all disagreements (?show=all) or the newest decisions (?show=decided)."""
    project = led_project(request, slug)
    show = request.GET.get("show", "open")
    quality = quality_of(project)
    decided = Adjudication.objects.filter(task__project=project, task__inactive=False)
    lists: dict[str, Any] = {
        "open": quality.disputes,
        "all": quality.disagreements,
        "decided": decided.select_related("by").order_by("-created_at"),
    }
    show = show if show in lists else "open"
    page = Paginator(lists[show], PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "show": show,
        "page": page,
        "rows": _rows(list(page.object_list)),
        "quality": quality,
        "first": next(iter(lists[show]), None) if show != "decided" else None,
        "causes": causes(project),
        "open_count": len(quality.disputes),
        "decided_count": decided.count(),
    }
    return render(request, "labeling/disputes/list.html", context)


def _rows(listed: Sequence[Disagreement | Adjudication]) -> list[dict[str, Any]]:
    """Return rows for disputes or decisions, with their tasks' prompts and gold copies."""
    tasks = {row.task_id for row in listed}
    prompts = dict(
        Prompt.objects.filter(tasks__in=tasks).values_list("tasks", "messages__-1__content")
    )
    golds = copies_of(tasks)
    return [
        {
            "dispute": row,
            "prompt": shortened(str(prompts.get(row.task_id, "")), 140),
            "gold": golds.get(row.task_id),
        }
        for row in listed
    ]


@login_required
@require_http_methods(["GET", "POST"])
def dispute(request: HttpRequest, slug: str, task_id: int) -> HttpResponse:
    """Show one dispute and, on POST, decide it.

    The parameter `from` is the number of a ranking whose order fills the form.
    """
    project = led_project(request, slug)
    task = get_object_or_404(
        Task.objects.select_related("prompt", "project__current_version").exclude(
            kind=Task.Kind.GOLD
        ),
        pk=task_id,
        project=project,
        inactive=False,
    )
    case = _Case(request, project, task)
    if request.method == "POST":
        return _save_decision(request, case)
    form = OutcomeForm(initial=case.initial(), letters=case.letters, names=case.names)
    return case.shown(form)


def _save_decision(request: HttpRequest, case: "_Case") -> HttpResponse:
    form = OutcomeForm(case.posted(), letters=case.letters, names=case.names)
    following = case.following()
    if form.is_valid():
        try:
            decide(
                task=case.task,
                by=user_of(request),
                shown_order=case.order_of(form.cleaned_data["note"]),
                **form.outcome(),
            )
        except CannotDecide as refused:
            form.refuse(refused)
        else:
            messages.success(request, f"The outcome of task {case.task.pk} was saved.")
            if following:
                return redirect("project-dispute", case.project.slug, following.task_id)
            return redirect("project-disputes", case.project.slug)
    return case.shown(form, status=HTTPStatus.UNPROCESSABLE_ENTITY)


class _Case:
    """The content of a dispute's page.

    Responses and rankings are shuffled, so that positions do not reveal models or reviewers. The order
    is the same each time the page is loaded.
    """

    def __init__(self, request: HttpRequest, project: Project, task: Task):
        self.request, self.project, self.task = request, project, task
        self.user = user_of(request)
        places = {
            task_response.response_id: task_response
            for task_response in task.places.filter(withdrawn=False)
            .select_related("response")
            .order_by("position")
        }
        order = order_for(task.pk, self.user, list(places))
        self.places = [places[response] for response in order]
        self.letters = letters_of(order)
        texts = [task_response.response.text for task_response in self.places]
        self.lettering = Lettering.of(task, self.letters, texts)
        self.names = page_names(task.pk, self.letters)
        self.rankings = list(task.rankings.filter(superseded_at=None).order_by("id"))
        random.Random(f"{task.pk}:{self.user.pk}").shuffle(self.rankings)
        self.decision = Adjudication.objects.filter(task=task).select_related("by").first()
        self.disputes = open_disputes(project)

    def posted(self) -> dict[str, str]:
        return {
            field_by_name(name, self.names): self.request.POST[name] for name in self.request.POST
        }

    def following(self) -> Disagreement | None:
        return next_after(self.disputes, self.task.pk)

    def initial(self) -> dict[str, Any]:
        start = self._initial_ranking()
        order = start or self.decision
        values = {
            "seen": mark(self.decision),
            "cause": self.decision.cause if self.decision else "",
            "note": self._note_to_edit(),
        }
        return values | (ranks_of(*self._left(order), self.names) if order else {})

    def _left(self, order: Ranking | Adjudication) -> tuple[list[list[int]], int | None]:
        """Return an order's tiers and cut without responses that were withdrawn later."""
        return among(order.tiers, order.cut, self.letters)

    def _note_to_edit(self) -> str:
        """Return the note with this page's letters, or as written if a letter is ambiguous."""
        if self.decision is None:
            return ""
        return self.lettering.with_page_letters(self.decision.note, self.decision.shown_order)

    def order_of(self, note: str) -> list[int]:
        """Return the order to which the letters in a note refer.

        For an unchanged note, this is the order that its author saw.
        """
        if self.decision is not None and note == self.decision.note:
            return self.decision.shown_order
        return list(self.letters)

    def _initial_ranking(self) -> Ranking | None:
        start = self.request.GET.get("from", "")
        number = int(start) if start in set("123456789") else 0
        return self.rankings[number - 1] if 1 <= number <= len(self.rankings) else None

    def shown(self, form: OutcomeForm, status: int = HTTPStatus.OK) -> HttpResponse:
        task_ids = [dispute.task_id for dispute in self.disputes]
        index = task_ids.index(self.task.pk) if self.task.pk in task_ids else None
        context = {
            "project": self.project,
            "section": "projects",
            "leads": True,
            "task": self.task,
            "decision": self.decision,
            "dispute": None if index is None else self.disputes[index],
            "number": None if index is None else index + 1,
            "left": len(self.disputes),
            "following": self.following(),
            "gold": copies_of([self.task.pk]).get(self.task.pk),
            "messages_of_prompt": conversation(self.task.prompt.messages),
            "responses": self._responses(form),
            "rankings": [self._ranking(ranking) for ranking in self.rankings],
            "form": form,
            "note": self.lettering.show(self.decision.note, self.decision.shown_order)
            if self.decision
            else None,
            "version": self.project.current_version,
        }
        return render(self.request, "labeling/disputes/dispute.html", context, status=status)

    def _responses(self, form: OutcomeForm) -> list[dict[str, Any]]:
        judging = self.decision is None
        named = may_see_models(self.user, self.project, self.task, judging=judging)
        return [
            {
                "name": self.names[task_response.response_id],
                "letter": self.letters[task_response.response_id],
                "model": task_response.response.model_name if named else "",
                "html": render_text(task_response.response.text),
                "exact": exact(task_response.response.text),
                "field": form[f"rank-{self.names[task_response.response_id]}"],
            }
            for task_response in self.places
        ]

    def _ranking(self, ranking: Ranking) -> dict[str, Any]:
        flags = [
            f"{self.letters[int(response)]}: {str(FLAGS.get(flag, flag)).lower()}"
            for response, flagged in ranking.flags.items()
            if int(response) in self.letters
            for flag in flagged
        ]
        tiers, cut = self._left(ranking)
        return {
            "order": as_order(tiers, cut, self.letters),
            "ranks": ranks_of(tiers, cut, self.names),
            "note": self.lettering.show(ranking.rationale, ranking.shown_order),
            "flags": flags,
            "simulated": ranking.source == Ranking.Source.SIMULATION,
        }
