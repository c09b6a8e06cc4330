from string import ascii_uppercase
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from accounts.access import user_of
from accounts.parameters import number
from labeling.core.access import led_project
from labeling.core.chats import conversation
from labeling.core.text import render as render_text
from labeling.importing import findings
from labeling.models import Task


@login_required
@require_GET
def waiting(request: HttpRequest, slug: str) -> HttpResponse:
    """List held tasks, oldest first. Pages are selected by id, so that every page is equally fast."""
    project = led_project(request, slug)
    tasks, after = findings.page_of(project, after=number(request.GET.get("after", "")))
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "counts": findings.counts(project),
        "tasks": [_task_context(task) for task in tasks],
        "after": after,
        "begun": "after" in request.GET,
    }
    return render(request, "labeling/data/findings.html", context)


def _task_context(task: Task) -> dict[str, Any]:
    return {
        "task": task,
        "prompt": conversation(task.prompt.messages)[-1],
        "responses": [
            {
                "letter": ascii_uppercase[task_response.position],
                "response": task_response.response,
                "html": render_text(task_response.response.text),
                "open": [
                    f for f in task_response.response.findings.all() if f.dismissed_at is None
                ],
            }
            for task_response in sorted(
                task.places.all(), key=lambda task_response: task_response.position
            )
        ],
    }


@login_required
@require_POST
def decide(request: HttpRequest, slug: str) -> HttpResponse:
    """Release the task, dismiss the response's findings or drop the response named in the form."""
    project = led_project(request, slug)
    by = user_of(request)
    if (row_id := number(request.POST.get("release", ""))) is not None:
        findings.release(project=project, task_id=row_id, by=by)
        sentence = f"Task {row_id} was released."
    elif (row_id := number(request.POST.get("dismiss", ""))) is not None:
        released = findings.dismiss(project=project, response_id=row_id, by=by)
        sentence = f"Dismissed. {_tasks(released)} released."
    elif (row_id := number(request.POST.get("drop", ""))) is not None:
        dropped = findings.drop(project=project, response_id=row_id, by=by)
        sentence = (
            f"Dropped. {_tasks(dropped.replaced)} continued without it, {dropped.ended} ended."
        )
    else:
        sentence = "Nothing was selected."
    messages.success(request, sentence)
    return redirect("project-findings", project.slug)


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"
