"""Where administrators erase content and people for good, and delete projects."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from accounts.access import user_of
from accounts.models import User
from finetune import deletion, erasing
from finetune.deletion import CannotDelete
from finetune.erasing import CannotErase
from labeling.models import Project, Prompt, Response
from labeling.text import shortened

CONTENTS: dict[str, tuple[Any, str]] = {
    "prompt": (Prompt.objects.select_related("project"), "project"),
    "response": (Response.objects.select_related("prompt__project"), "prompt__project"),
}


def administrator_of(request: HttpRequest) -> User:
    """Raises PermissionDenied for anyone but an active superuser."""
    user = user_of(request)
    if not (user.is_superuser and user.is_active):
        raise PermissionDenied("Only an administrator may erase or delete.")
    return user


class TypedForm(forms.Form):
    """Passes when exactly the wanted word is typed."""

    typed = forms.CharField()

    def __init__(self, *args: Any, word: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.word = word
        self.fields["typed"].label = f"Type {word} to confirm"
        self.fields["typed"].widget.attrs["autocomplete"] = "off"

    def clean_typed(self) -> str:
        if (typed := str(self.cleaned_data["typed"])) != self.word:
            raise forms.ValidationError(f"Type exactly {self.word}.")
        return typed


class DeleteProjectForm(TypedForm):
    promoted = forms.BooleanField(
        required=False, label="Also delete the promoted models. They stop answering."
    )


def _confirmed(
    request: HttpRequest,
    form: TypedForm,
    act: Callable[[], str],
    *,
    done: str,
    template: str,
    context: dict[str, Any],
) -> HttpResponse:
    """Show the page, or act on a confirmed form. `act` returns a sentence for the administrator."""
    if request.method == "POST" and form.is_valid():
        try:
            messages.success(request, act())
        except (CannotErase, CannotDelete) as refused:
            form.add_error(None, str(refused))
        else:
            return redirect(done)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, template, {**context, "form": form}, status=status)


@login_required
@require_http_methods(["GET", "POST"])
def erase_content(request: HttpRequest, slug: str, kind: str, pk: int) -> HttpResponse:
    """Show what holds the content, then erase it for good."""
    administrator = administrator_of(request)
    if kind not in CONTENTS:
        raise Http404("Only prompts and responses can be erased.")
    rows, path = CONTENTS[kind]
    content = get_object_or_404(rows, pk=pk, **{f"{path}__slug": slug})
    prompt = content if kind == "prompt" else content.prompt

    def act() -> str:
        erasing.erase(content=content, by=administrator)
        return f"{kind.capitalize()} {pk} is erased."

    context = {
        "section": "projects",
        "project": prompt.project,
        "kind": kind,
        "content": content,
        "excerpt": shortened(content.text if kind == "response" else str(content), 300),
        "reach": erasing.reach_of(content),
    }
    done = reverse("project-prompt", args=[slug, prompt.pk])
    form = TypedForm(request.POST or None, word="erase")
    return _confirmed(
        request, form, act, done=done, template="finetune/erase.html", context=context
    )


@login_required
@require_http_methods(["GET", "POST"])
def erase_person(request: HttpRequest, pk: int) -> HttpResponse:
    administrator = administrator_of(request)
    person = get_object_or_404(User, pk=pk)

    def act() -> str:
        return f"Erased. The account is now called {erasing.erase_person(user=person, by=administrator)}."

    context = {"section": "projects", "person": person, "extent": erasing.person_of(person)}
    form = TypedForm(request.POST or None, word=person.username)
    return _confirmed(
        request, form, act, done="home", template="finetune/erase_person.html", context=context
    )


@login_required
@require_http_methods(["GET", "POST"])
def delete_project(request: HttpRequest, slug: str) -> HttpResponse:
    administrator = administrator_of(request)
    project = get_object_or_404(Project, slug=slug)
    form = DeleteProjectForm(request.POST or None, word=project.slug)

    def act() -> str:
        despite = bool(form.cleaned_data["promoted"])
        deletion.delete(project=project, by=administrator, despite_promoted=despite)
        return f"{project} is deleted."

    context = {
        "section": "projects",
        "project": project,
        "extent": deletion.extent_of(project),
    }
    return _confirmed(
        request,
        form,
        act,
        done="projects",
        template="finetune/delete_project.html",
        context=context,
    )
