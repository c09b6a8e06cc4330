from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_GET

from accounts.access import user_of
from accounts.models import audit
from labeling.core.access import led_project
from labeling.models import Project
from reward.models import Snapshot
from reward.preferences.exports import FORMATS, SPLITS, SUFFIXES, TIES, Export, card

TITLES = {
    "kwise": "K-wise", "pairs": "TRL pairs", "pairs-implicit": "TRL pairs, implicit prompt",
    "unpaired": "TRL unpaired", "full": "Full records",
}  # fmt: skip
WHAT = {
    "kwise": "one row a prompt with all its responses and rankings",
    "pairs": "prompt, chosen and rejected as messages, margin, group",
    "pairs-implicit": "the same, the prompt inside chosen and rejected",
    "unpaired": "prompt, completion, label",
    "full": "prompts, responses, tasks and current rankings, to import again",
}
TYPES = {".jsonl": "application/x-ndjson", ".parquet": "application/vnd.apache.parquet"}
NOW = "Its rankings as they are now"


class ExportForm(forms.Form):
    form = forms.ChoiceField(
        label="What",
        choices=[(name, f"{TITLES[name]}: {WHAT[name]}") for name in FORMATS],
        widget=forms.RadioSelect,
    )
    suffix = forms.ChoiceField(label="File", choices=list(SUFFIXES.items()))
    snapshot = forms.ModelChoiceField(
        queryset=Snapshot.objects.none(),
        required=False,
        empty_label=NOW,
        help_text="A snapshot never changes. Full records are of the rankings as they are now.",
    )
    ties = forms.ChoiceField(
        label="Ties, in pairs and labels",
        choices=[(name, what[:1].upper() + what[1:]) for name, what in TIES.items()],
        widget=forms.RadioSelect,
    )
    split = forms.ChoiceField(
        required=False, choices=[("", "Both sides"), *((s, f"Only {s}") for s in SPLITS)]
    )
    names = forms.BooleanField(
        required=False, label="Full records: name reviewers instead of pseudonyms"
    )

    def __init__(self, given: QueryDict | None, *, project: Project):
        initial = {"form": "kwise", "suffix": ".jsonl", "ties": "half"}
        super().__init__({**initial, **given.dict()} if given else None, initial=initial)
        self.project = project
        self.fields["snapshot"].queryset = Snapshot.objects.filter(project=project)  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        sent = super().clean() or {}
        if sent.get("form") == "full":
            for name in ("snapshot", "split"):
                if sent.get(name):
                    self.add_error(name, "Full records are of the whole project as it is now.")
        elif sent.get("names"):
            self.add_error("names", "Only full records can name reviewers.")
        return sent

    def export(self) -> Export:
        sent = self.cleaned_data
        return Export(
            project=self.project, snapshot=sent["snapshot"], form=sent["form"], ties=sent["ties"],
            split=sent["split"] or None, names=sent["names"],
        )  # fmt: skip


@login_required
@require_GET
def choose(request: HttpRequest, slug: str) -> HttpResponse:
    """The form; with a choice in the address also what it gives, which reads everything."""
    project = led_project(request, slug)
    form = ExportForm(request.GET or None, project=project)
    context: dict[str, Any] = {
        "project": project, "section": "projects", "leads": True, "form": form,
        "query": request.GET.urlencode(),
    }  # fmt: skip
    if form.is_bound and form.is_valid():
        counts = form.export().count()
        context["counts"] = [(card.what_of(name), n) for name, n in counts.items() if n]
        context["rows"] = counts["rows"]
    return render(request, "reward/export.html", context)


@login_required
@require_GET
def download(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Streamed, as it is read; memory holds 256 prompts."""
    project = led_project(request, slug)
    form = ExportForm(request.GET, project=project)
    if not form.is_valid():
        return choose(request, slug)
    export, suffix = form.export(), form.cleaned_data["suffix"]
    audit(user_of(request), "data exported", project, format=export.form, names=export.names)
    response = StreamingHttpResponse(
        export.stream(suffix, ended=lambda counts: None), content_type=TYPES[suffix]
    )
    response["Content-Disposition"] = f'attachment; filename="{_name(export)}{suffix}"'
    return response


@login_required
@require_GET
def about(request: HttpRequest, slug: str) -> HttpResponse:
    """The card that the command writes next to the file. Reads everything."""
    project = led_project(request, slug)
    form = ExportForm(request.GET, project=project)
    if not form.is_valid():
        return choose(request, slug)
    export, suffix = form.export(), form.cleaned_data["suffix"]
    text = card.text(
        f"{_name(export)}{suffix}",
        export.plan(suffix),
        export.count(),
        agreement=export.agreement(),
    )
    response = HttpResponse(text, content_type="text/markdown; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{_name(export)}.about.md"'
    return response


def _name(export: Export) -> str:
    return f"{export.project.slug}-{export.form}"
