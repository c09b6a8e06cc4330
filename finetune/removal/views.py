"""The pages on which administrators erase content and people and delete projects."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from accounts.access import administrator_required, user_of
from accounts.models import User
from finetune.removal import deletion, erasing
from finetune.removal.deletion import CannotDelete
from finetune.removal.erasing import CannotErase
from labeling.models import Project, Response, Task
from labeling.pages.removal import content_of, excerpt_of


class TypedForm(forms.Form):
    """A form that is valid only if the given word was typed exactly."""

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
        required=False, label="Also delete the promoted models, which will no longer be available."
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
    """Show the page. If the form is confirmed, call `act` instead.

    `act` returns a sentence for the administrator.
    """
    if request.method == "POST" and form.is_valid():
        try:
            messages.success(request, act())
        except (CannotErase, CannotDelete) as refused:
            form.add_error(None, str(refused))
        else:
            return redirect(done)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, template, {**context, "form": form}, status=status)


@administrator_required
@require_http_methods(["GET", "POST"])
def erase_content(request: HttpRequest, slug: str, kind: str, pk: int) -> HttpResponse:
    """Show where the content is stored, then erase it permanently."""
    project = get_object_or_404(Project, slug=slug)
    content = content_of(project, kind, pk)
    if isinstance(content, Task):
        raise Http404("Only prompts and responses can be erased.")
    prompt = content.prompt if isinstance(content, Response) else content

    def act() -> str:
        erasing.erase(content=content, by=user_of(request))
        return f"{kind.capitalize()} {pk} is erased."

    context = {
        "section": "projects",
        "project": project,
        "kind": kind,
        "content": content,
        "excerpt": excerpt_of(content),
        "reach": erasing.reach_of(content),
    }
    done = reverse("project-prompt", args=[slug, prompt.pk])
    form = TypedForm(request.POST or None, word="erase")
    return _confirmed(
        request, form, act, done=done, template="finetune/erase.html", context=context
    )


@administrator_required
@require_http_methods(["GET", "POST"])
def erase_person(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the numbers of a person's texts and rows, then erase the person permanently."""
    person = get_object_or_404(User, pk=pk)

    def act() -> str:
        name = erasing.erase_person(user=person, by=user_of(request))
        return f"Erased. The account is now called {name}."

    context = {"section": "people", "person": person, "extent": erasing.person_of(person)}
    form = TypedForm(request.POST or None, word=person.username)
    return _confirmed(
        request, form, act, done="people", template="finetune/erase_person.html", context=context
    )


@administrator_required
@require_http_methods(["GET", "POST"])
def delete_project(request: HttpRequest, slug: str) -> HttpResponse:
    """Show what a project contains, then delete it with all its files."""
    project = get_object_or_404(Project, slug=slug)
    form = DeleteProjectForm(request.POST or None, word=project.slug)

    def act() -> str:
        allow_promoted = bool(form.cleaned_data["promoted"])
        deletion.delete(project=project, by=user_of(request), allow_promoted=allow_promoted)
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
