from dataclasses import dataclass, replace

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.access import lead_required, trainer_required, user_of
from runs import live
from runs.catalog import notes
from runs.catalog.filters import FilterForm
from runs.catalog.metrics import metrics_of
from runs.catalog.notes import CannotArchive
from runs.models import Run
from runs.templatetags.runs import metric as metric_label
from runs.templatetags.runs import value_text
from runs.views import trained_run_for

PAGE_SIZE = 25


@dataclass(frozen=True)
class Column:
    """A column of the list. `sort` is the order that its heading chooses, "" if it has none."""

    name: str
    label: str
    sort: str = ""
    number: bool = False
    direction: str = ""

    def chosen(self, order: str) -> "Column":
        """Return the column as the list with this order shows it."""
        if not self.sort or order.removeprefix("-") != self.sort.removeprefix("-"):
            return self
        opposite = order.removeprefix("-") if order.startswith("-") else f"-{order}"
        direction = "descending" if order.startswith("-") else "ascending"
        return replace(self, sort=opposite, direction=direction)


def columns(form: FilterForm) -> list[Column]:
    name = form.metric_name
    all_columns = [
        Column("name", "Run", sort="name"),
        Column("project", "Project"),
        Column("kind", "Kind", sort="kind"),
        Column("state", "State", sort="state"),
        Column("result", "Result", number=True),
        *([Column("metric", metric_label(name), sort="-metric", number=True)] if name else []),
        Column("owner", "Created by"),
        Column("created", "Created", sort="-created"),
        Column("duration", "Duration", sort="-duration", number=True),
    ]
    return [column.chosen(form.order()) for column in all_columns]


@lead_required
@require_safe
def run_list(request: HttpRequest) -> HttpResponse:
    form = FilterForm(request.GET, user=user_of(request))
    runs = form.runs().select_related("created_by", "project").defer("config")
    page = Paginator(runs, PAGE_SIZE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": [(run, metric_text(run, form.metric_name)) for run in page.object_list],
        "form": form,
        "filtered": bool(form.chosen),
        "columns": columns(form),
        "section": "runs",
    }
    return render(request, "runs/list.html", context)


def metric_text(run: Run, name: str) -> str:
    """Return the metric of a run as text, "" if it has none."""
    metric = metrics_of(run.result).get(name)
    return value_text(metric.value, share=name in live.shares_of(run)) if metric else ""


class NotesForm(forms.Form):
    """The tags and the notes of a run."""

    tags = forms.CharField(
        required=False,
        help_text="Separate tags with commas. The list of runs can be filtered by tag.",
    )
    notes = forms.CharField(
        required=False, max_length=10_000, strip=True, widget=forms.Textarea({"rows": 4})
    )

    def clean_tags(self) -> list[str]:
        return notes.parse_tags(self.cleaned_data["tags"])


@trainer_required
@require_http_methods(["GET", "POST"])
def run_notes(request: HttpRequest, run_id: int) -> HttpResponse:
    run = trained_run_for(request, run_id)
    initial = {"tags": ", ".join(run.tags), "notes": run.notes}
    form = NotesForm(request.POST if request.method == "POST" else None, initial=initial)
    if request.method == "POST" and form.is_valid():
        notes.save_notes(run, **form.cleaned_data, by=user_of(request))
        return redirect("run", run.pk)
    context = {"run": run, "form": form, "section": "runs"}
    return render(request, "runs/notes.html", context, status=422 if form.errors else 200)


@trainer_required
@require_POST
def run_archive(request: HttpRequest, run_id: int) -> HttpResponse:
    """Archive a run, or restore it with the field `restore`."""
    run = trained_run_for(request, run_id)
    if "restore" in request.POST:
        notes.unarchive(run, by=user_of(request))
        messages.success(request, "The run is in the list of runs again.")
        return redirect("run", run.pk)
    try:
        notes.archive(run, by=user_of(request))
        messages.success(request, "The run is archived. The list of runs leaves it out.")
    except CannotArchive as problem:
        messages.warning(request, str(problem))
    return redirect("run", run.pk)
