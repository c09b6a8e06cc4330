"""The pages on which leads withdraw and restore prompts, responses and tasks, and edit prompts."""

from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from accounts.access import user_of
from accounts.parameters import local_path
from labeling.core.access import led_project
from labeling.core.chats import conversation
from labeling.core.text import render as render_text
from labeling.core.text import shortened
from labeling.models import Project, Prompt, Response, Task
from labeling.projects import archiving
from labeling.removal import withdrawing
from labeling.removal.editing import CannotEdit, edit, obstacle_to_editing
from labeling.removal.withdrawing import MAX_REASON_LENGTH, Content

KINDS: dict[str, tuple[Any, str]] = {
    "prompt": (Prompt.objects.select_related("project"), "project"),
    "response": (Response.objects.select_related("prompt__project"), "prompt__project"),
    "task": (Task.objects.select_related("project", "prompt"), "project"),
}


def content_of(project: Project, kind: str, pk: int) -> Content:
    """Return the project's prompt, response or task. Raises Http404."""
    if kind not in KINDS:
        raise Http404("Only prompts, responses and tasks can be withdrawn.")
    rows, path = KINDS[kind]
    return get_object_or_404(rows, pk=pk, **{path: project})


class WithdrawForm(forms.Form):
    reason = forms.CharField(
        required=False,
        max_length=MAX_REASON_LENGTH,
        help_text="Shown to leads and kept in the audit trail.",
    )


@login_required
@require_http_methods(["GET", "POST"])
def withdraw(request: HttpRequest, slug: str, kind: str, pk: int) -> HttpResponse:
    """Show the effect of withdrawing the content, and withdraw it on POST."""
    project = led_project(request, slug)
    content = content_of(project, kind, pk)
    form = WithdrawForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        reason = form.cleaned_data["reason"]
        if withdrawing.withdraw(content=content, by=user_of(request), reason=reason):
            messages.success(request, f"{_title(content)} was withdrawn. You can restore it.")
        else:
            messages.info(request, f"{_title(content)} was already withdrawn.")
        return redirect(_back(request, project, content))
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "kind": kind,
        "title": _title(content),
        "excerpt": excerpt_of(content),
        "effect": withdrawing.effect_of(content),
        "form": form,
        "back": _back(request, project, content),
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "labeling/data/withdraw.html", context, status=status)


@login_required
@require_POST
def restore(request: HttpRequest, slug: str, kind: str, pk: int) -> HttpResponse:
    project = led_project(request, slug)
    content = content_of(project, kind, pk)
    if withdrawing.restore(content=content, by=user_of(request)):
        messages.success(request, f"{_title(content)} was restored.")
    else:
        messages.info(request, f"{_title(content)} was not withdrawn.")
    return redirect(_back(request, project, content))


def _title(content: Content) -> str:
    return f"{withdrawing.kind_of(content).capitalize()} {content.pk}"


def excerpt_of(content: Content) -> str:
    """Return the beginning of a response or prompt, or of a task's prompt, for a confirmation page."""
    if isinstance(content, Response):
        return shortened(content.text, 300)
    return shortened(str(content.prompt if isinstance(content, Task) else content), 300)


def _back(request: HttpRequest, project: Project, content: Content) -> str:
    """Return the page from which the lead came if it is on this site, otherwise the content's own page."""
    if came_from := local_path(request.POST.get("back") or request.GET.get("back") or ""):
        return came_from
    if isinstance(content, Task):
        return reverse("project-task", args=[project.slug, content.pk])
    prompt = content.pk if isinstance(content, Prompt) else content.prompt_id
    return reverse("project-prompt", args=[project.slug, prompt])


# --- a prompt ------------------------------------------------------------------------------------


class PromptForm(forms.Form):
    """A form with a text area for each message. The roles and number of messages cannot be changed."""

    def __init__(self, *args: Any, prompt: Prompt, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.roles = [message["role"] for message in prompt.messages]
        for number, message in enumerate(prompt.messages):
            self.fields[f"message-{number}"] = forms.CharField(
                label=message["role"].capitalize(),
                initial=message["content"],
                strip=False,
                required=bool(message["content"]),
                widget=forms.Textarea(attrs={"rows": 6}),
            )

    def messages(self) -> list[dict[str, str]]:
        """Return the messages with LF line ends. Browsers send CRLF."""
        return [
            {"role": role, "content": self.cleaned_data[f"message-{n}"].replace("\r\n", "\n")}
            for n, role in enumerate(self.roles)
        ]


@login_required
@require_http_methods(["GET", "POST"])
def edit_prompt(request: HttpRequest, slug: str, prompt_id: int) -> HttpResponse:
    """Show a prompt with its tasks and responses and, on POST, change its text if it is not ranked."""
    project = led_project(request, slug)
    prompt = get_object_or_404(Prompt, pk=prompt_id, project=project)
    form = PromptForm(request.POST or None, prompt=prompt)
    if request.method == "POST" and form.is_valid():
        try:
            changed = edit(prompt=prompt, messages=form.messages(), by=user_of(request))
        except CannotEdit as refused:
            form.add_error(None, str(refused))
        else:
            messages.success(request, "The prompt was saved." if changed else "Nothing changed.")
            return redirect("project-prompt", slug, prompt_id)
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "prompt": prompt,
        "form": form,
        "obstacle": obstacle_to_editing(prompt),
        "messages_of_prompt": conversation(prompt.messages),
        "tasks": prompt.tasks.order_by("pk"),
        "responses": [
            {"response": response, "html": render_text(response.text)}
            for response in prompt.responses.order_by("pk")
        ],
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "labeling/data/prompt.html", context, status=status)


# --- a project -----------------------------------------------------------------------------------


@login_required
@require_POST
def archive_project(request: HttpRequest, slug: str) -> HttpResponse:
    project = led_project(request, slug)
    archiving.archive(project=project, by=user_of(request))
    messages.success(request, f"{project} was archived. You can restore it here.")
    return redirect("project", slug)


@login_required
@require_POST
def restore_project(request: HttpRequest, slug: str) -> HttpResponse:
    project = get_object_or_404(Project.objects.archived_led_by(user_of(request)), slug=slug)
    archiving.restore(project=project, by=user_of(request))
    messages.success(request, f"{project} was restored.")
    return redirect("project", slug)
