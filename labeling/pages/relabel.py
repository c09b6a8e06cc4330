"""The page on which leads have a sample of tasks ranked again, to measure a guideline change."""

from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from accounts.access import user_of
from labeling.core.access import led_project
from labeling.disputes.relabeling import MAX_TASKS, CannotRelabel, comparison, draw
from labeling.models import GuidelineVersion, Project, RelabelSample

SAMPLES_SHOWN = 5


class SampleForm(forms.Form):
    size = forms.IntegerField(
        label="Tasks", min_value=1, max_value=MAX_TASKS, initial=50,
        help_text="The number of tasks. Each is ranked again by as many reviewers as before.",
    )  # fmt: skip
    before = forms.TypedChoiceField(
        label="Ranked under",
        coerce=int,
        help_text="The version under which the tasks were ranked. They are ranked again under the current one.",
    )
    seed = forms.IntegerField(
        min_value=0,
        max_value=2**31 - 1,
        initial=0,
        help_text="The number from which the random sample is drawn. The same seed selects the same tasks.",
    )

    def __init__(self, *args: Any, versions: list[GuidelineVersion], **kwargs: Any):
        super().__init__(*args, **kwargs)
        before = self.fields["before"]
        assert isinstance(before, forms.ChoiceField)
        before.choices = [(version.number, f"Version {version.number}") for version in versions]


@login_required
@require_http_methods(["GET", "POST"])
def relabel(request: HttpRequest, slug: str) -> HttpResponse:
    project = led_project(request, slug)
    versions = _earlier(project)
    form = SampleForm(request.POST or None, versions=versions)
    status = HTTPStatus.OK
    if request.method == "POST":
        if form.is_valid() and (sample := _draw_sample(request, project, form)):
            count = sample.tasks.count()
            messages.success(
                request,
                f"{count} task{'s' if count > 1 else ''} will be ranked again, before all others.",
            )
            return redirect("project-relabel", slug)
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    samples = RelabelSample.objects.filter(project=project).select_related("before", "after")
    context = {
        "project": project,
        "section": "projects",
        "leads": True,
        "form": form,
        "versions": versions,
        "samples": [(sample, comparison(sample)) for sample in samples[:SAMPLES_SHOWN]],
    }
    return render(request, "labeling/disputes/relabel.html", context, status=status)


def _draw_sample(request: HttpRequest, project: Project, form: SampleForm) -> RelabelSample | None:
    try:
        return draw(project=project, by=user_of(request), **form.cleaned_data)
    except CannotRelabel as error:
        form.add_error(None, str(error))
        return None


def _earlier(project: Project) -> list[GuidelineVersion]:
    """Return the published versions that are no longer current, newest first."""
    published = GuidelineVersion.objects.filter(
        guideline__project=project, state=GuidelineVersion.State.PUBLISHED
    )
    current = project.current_version_id
    return [version for version in published.order_by("-number") if version.pk != current]
