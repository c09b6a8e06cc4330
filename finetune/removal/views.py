"""The pages on which administrators erase content and people and delete projects."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from accounts.access import administrator_required, lead_required, trainer_required, user_of
from accounts.models import User
from finetune.removal import deletion, erasing, tracing
from finetune.removal.deletion import CannotDelete
from finetune.removal.erasing import CannotErase
from labeling.core.access import led_project, require_trainer, trains
from labeling.models import Project, Ranking, Response, Task
from labeling.pages.removal import content_of, excerpt_of
from reward.models import Withdrawal
from runs import services
from runs.services import InvalidConfig, SameRun

PAGE_SIZE = 50


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


class WithdrawForm(TypedForm):
    reason = forms.CharField(
        required=False, max_length=300, label="Reason", help_text="Do not name the person here."
    )
    field_order = ("reason", "typed")


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
        withdrawal = erasing.erase(content=content, by=user_of(request))
        return f"{kind.capitalize()} {pk} is erased. See withdrawal {withdrawal.pk} of the project."

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


# --- withdrawn data ------------------------------------------------------------------------------


@administrator_required
@require_http_methods(["GET", "POST"])
def withdraw_reviewer(request: HttpRequest, slug: str, user_id: int) -> HttpResponse:
    """Show what a reviewer's data has reached, then withdraw it permanently."""
    project = get_object_or_404(Project, slug=slug)
    reviewer = get_object_or_404(User, pk=user_id)
    form = WithdrawForm(request.POST or None, word="withdraw")

    def act() -> str:
        reason = form.cleaned_data["reason"]
        withdrawal = erasing.withdraw_reviewer(
            project=project, reviewer=reviewer, by=user_of(request), reason=reason
        )
        return f"The data is withdrawn. Withdrawal {withdrawal.pk} lists what it had reached."

    context = {
        "section": "projects",
        "project": project,
        "reviewer": reviewer,
        "rankings": Ranking.objects.filter(task__project=project, reviewer=reviewer).count(),
        "lists": tracing.trace_of_reviewer(project, reviewer).lists(),
    }
    done = reverse("withdrawals", args=[slug])
    template = "finetune/withdraw_reviewer.html"
    return _confirmed(request, form, act, done=done, template=template, context=context)


@lead_required
@require_GET
def withdrawals(request: HttpRequest, slug: str) -> HttpResponse:
    project = led_project(request, slug)
    rows = Withdrawal.objects.filter(project=project).select_related("by", "prompt")
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "page": Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page")),
        "burned": project.burned_pseudonyms.all(),
    }
    return render(request, "finetune/withdrawals.html", context)


@lead_required
@require_GET
def withdrawal(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Show what withdrawn data had reached, and offer runs that train again without it."""
    project = led_project(request, slug)
    row = get_object_or_404(
        Withdrawal.objects.select_related("by", "prompt"), project=project, pk=pk
    )
    trace = tracing.trace_of_withdrawal(row)
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "withdrawal": row,
        "lists": trace.lists(),
        "retrainings": tracing.retrainings_of(trace),
        "can_train": trains(user_of(request), project),
    }
    return render(request, "finetune/withdrawal.html", context)


@trainer_required
@require_POST
def train_again(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """Start a run with the settings and inputs of a run that was trained on the withdrawn data."""
    project = led_project(request, slug)
    require_trainer(user_of(request), project)
    row = get_object_or_404(Withdrawal, project=project, pk=pk)
    number = request.POST.get("run", "")
    for retraining in tracing.retrainings_of(tracing.trace_of_withdrawal(row)):
        if retraining.run and str(retraining.run.pk) == number and not retraining.obstacle:
            break
    else:
        raise Http404(f"Withdrawal {pk} offers no run {number[:20]} to repeat.")
    title = f"{retraining.run.title or retraining.model} without withdrawn data"
    try:
        run = services.start(
            retraining.run.kind,
            retraining.run.config,
            user_of(request),
            inputs=retraining.run.inputs,
            title=title,
            again=False,
        )
    except SameRun as problem:  # a second click, or a second tab
        return redirect("run", problem.run.pk)
    except InvalidConfig as problem:
        messages.error(request, str(problem))
        return redirect("withdrawal", slug, pk)
    messages.success(request, f"Run {run.pk} trains again without the withdrawn data.")
    return redirect("run", run.pk)
