"""The page on which leads request more rankings of existing tasks, after a preview."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import pluralize
from django.views.decorators.http import require_http_methods

from accounts.access import user_of
from labeling.core.access import led_project
from labeling.models import Project, Task
from labeling.projects.staffing import able_to_review
from labeling.queue import raising


class RaiseForm(forms.Form):
    wanted = forms.TypedChoiceField(
        label="Rankings per task",
        choices=[(number, str(number)) for number in range(1, 10)],
        coerce=int,
        help_text="Tasks with fewer rankings get the missing ones. Other tasks are not changed.",
    )
    task = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=2**63 - 1,
        label="Only this task",
        help_text="The number of the task. Leave empty for all tasks of the project.",
        widget=forms.NumberInput,
    )
    slots = forms.IntegerField(required=False, min_value=0, widget=forms.HiddenInput)

    def __init__(self, *args: Any, project: Project, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.project = project

    def clean_task(self) -> Task | None:
        number = self.cleaned_data["task"]
        if number is None:
            return None
        task = Task.objects.filter(project=self.project, pk=number).first()
        if task is None:
            raise forms.ValidationError(f"This project has no task {number}.")
        return task

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if not self.errors:
            try:
                self.plan = raising.plan(
                    project=self.project, wanted=values["wanted"], task=values["task"]
                )
            except raising.CannotRaise as refused:
                self.add_error("wanted", str(refused))
        return values


@login_required
@require_http_methods(["GET", "POST"])
def raise_rankings(request: HttpRequest, slug: str) -> HttpResponse:
    """Show how many rankings would be requested and, on POST, request them.

    `wanted` is the number per task. `task` restricts the request to one task.
    """
    project = led_project(request, slug)
    data = request.POST if request.method == "POST" else request.GET
    form = RaiseForm(
        data if "wanted" in data else None,
        project=project,
        initial={"wanted": project.rankings_per_task, "task": request.GET.get("task")},
    )
    if request.method == "POST" and form.is_valid() and _requested(request, project, form):
        task = form.cleaned_data["task"]
        if task is not None:
            return redirect("project-task", slug, task.pk)
        return redirect("project-data", slug)
    plan = form.plan if form.is_bound and form.is_valid() else None
    people = len(able_to_review(project))
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "form": form,
        "plan": plan,
        "left_out": [
            (count, raising.REASONS[reason]) for reason, count in sorted(plan.left_out.items())
        ]
        if plan
        else [],
        "people": people,
        "too_few": plan is not None and plan.wanted > people,
    }
    status = 422 if form.errors or request.method == "POST" else 200
    return render(request, "labeling/data/raise.html", context, status=status)


def _requested(request: HttpRequest, project: Project, form: RaiseForm) -> bool:
    values = form.cleaned_data
    try:
        done = raising.apply(
            project=project,
            wanted=values["wanted"],
            task=values["task"],
            by=user_of(request),
            expected=values["slots"] if values["slots"] is not None else -1,
        )
    except raising.CannotRaise as refused:
        messages.error(request, str(refused))
        return False
    rankings = f"{done.slots} more ranking{pluralize(done.slots)}"
    tasks = f"{done.tasks} task{pluralize(done.tasks)}"
    messages.success(request, f"Requested {rankings} of {tasks}.")
    return True
