from typing import Any

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods

from accounts.access import trainer_required, user_of
from accounts.parameters import number
from runs.disk import cleaning, usage
from runs.disk.cleaning import DAYS, Policy, Removal
from runs.models import Run

PAGE_SIZE = 25


class PolicyForm(forms.Form):
    """The rules of a clean-up, as a form."""

    days = forms.IntegerField(
        min_value=0,
        max_value=3650,
        initial=DAYS,
        label="Days",
        help_text="Checkpoints of failed and cancelled runs are kept for this number of days after the "
        "end. Those of archived runs are removed immediately.",
    )
    published = forms.BooleanField(
        required=False,
        label="Published files of archived runs",
        help_text="Without files, a model cannot be used, merged or downloaded. Files that a model "
        "needs which is promoted, not archived or has a certificate are kept.",
    )

    def policy(self) -> Policy:
        """Return the policy, with the default for a field that is invalid."""
        self.is_valid()
        days = self.cleaned_data.get("days")
        return Policy(DAYS if days is None else days, bool(self.cleaned_data.get("published")))


@trainer_required
@require_http_methods(["GET", "POST"])
def disk(request: HttpRequest) -> HttpResponse:
    """Show the disk space of runs and what a clean-up would remove. A POST removes it."""
    runs = Run.objects.trained_by(user_of(request)).select_related("project")
    values = request.POST if request.method == "POST" else request.GET
    chosen = {"days": values.get("days", str(DAYS)), "published": values.get("published", "")}
    form = PolicyForm(chosen)
    policy = form.policy()
    if request.method == "POST" and not form.errors:
        texts = request.POST.getlist("run")
        numbers = [pk for text in texts if (pk := number(text)) is not None]
        removals = cleaning.plan(runs.filter(pk__in=numbers), policy)
        outcome = cleaning.clean([r.run for r in removals if r.total], policy, by=user_of(request))
        _report(request, outcome)
        return redirect(f"{reverse('run-disk')}?{urlencode(chosen)}")
    context = {**disk_context(list(runs), policy), "form": form, "policy": policy}
    context["page"] = Paginator(context["largest"], PAGE_SIZE).get_page(request.GET.get("page"))
    return render(request, "runs/disk.html", context, status=422 if request.POST else 200)


def _report(request: HttpRequest, outcome: cleaning.Outcome) -> None:
    for reason in outcome.skipped:
        messages.warning(request, reason)
    if outcome.runs:
        size = filesizeformat(outcome.bytes)
        runs = f"{outcome.runs} run{'s' if outcome.runs > 1 else ''}"
        messages.success(request, f"Removed files of {runs}, {size}.")
    elif not outcome.skipped:
        messages.info(request, "There was nothing to remove.")


def disk_context(runs: list[Run], policy: Policy) -> dict[str, Any]:
    usages = usage.usage_of(runs)
    removals = cleaning.plan(Run.objects.filter(pk__in=[run.pk for run in runs]), policy)
    used = usage.Usage(
        *(
            sum(getattr(u, name) for u in usages.values())
            for name in ("working", "published", "records")
        )
    )
    return {
        "used": used,
        "free": usage.free_bytes(),
        "removals": [removal for removal in removals if removal.total],
        "kept": [removal for removal in removals if removal.kept],
        "removable": sum(map(_total, removals)),
        "largest": sorted(
            ((run, usages[run.pk]) for run in runs), key=lambda row: (-row[1].total, -row[0].pk)
        ),
        "section": "runs",
    }


def _total(removal: Removal) -> int:
    return removal.total
