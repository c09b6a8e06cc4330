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
from recipes.preferences.pairs import PairOptions
from reward.models import Snapshot
from reward.preferences.exports import FORMATS, SUFFIXES, TIES, Export, card

TITLES = {
    "kwise": "K-wise", "pairs": "TRL pairs", "pairs-implicit": "TRL pairs, implicit prompt",
    "unpaired": "TRL unpaired", "full": "Full records",
}  # fmt: skip
DESCRIPTIONS = {
    "kwise": "one row per prompt with all its responses and rankings",
    "pairs": "prompt, chosen and rejected as messages, margin, group",
    "pairs-implicit": "the same, with the prompt inside chosen and rejected",
    "unpaired": "prompt, completion, label",
    "full": "prompts, responses, tasks and current rankings, for importing again",
}
TYPES = {".jsonl": "application/x-ndjson", ".parquet": "application/vnd.apache.parquet"}
DEFAULTS = {
    "ties": PairOptions.ties,
    "min_margin": PairOptions.min_margin,
    "max_pairs": PairOptions.max_per_prompt,
}
NOW = "Current rankings"


class ExportForm(forms.Form):
    form = forms.ChoiceField(
        label="Format",
        choices=[(name, f"{TITLES[name]}: {DESCRIPTIONS[name]}") for name in FORMATS],
        widget=forms.RadioSelect,
    )
    suffix = forms.ChoiceField(label="File type", choices=list(SUFFIXES.items()))
    snapshot = forms.ModelChoiceField(
        queryset=Snapshot.objects.none(),
        required=False,
        empty_label=NOW,
        help_text="A snapshot never changes. Full records always use the current rankings.",
    )
    ties = forms.ChoiceField(
        label="Ties in pairs and labels",
        choices=[(name, text[:1].upper() + text[1:]) for name, text in TIES.items()],
        widget=forms.RadioSelect,
    )
    min_margin = forms.FloatField(
        required=False,
        min_value=0,
        max_value=1,
        label="Minimum margin",
        help_text="Training pairs with a smaller margin are left out.",
    )
    max_pairs = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=36,
        label="Maximum pairs per prompt",
        help_text="The clearest training pairs are kept. Leave empty to keep all.",
    )
    keep_identical = forms.BooleanField(
        required=False, label="Keep pairs of two responses with the same text"
    )
    split = forms.ChoiceField(
        required=False,
        choices=[
            ("", "Training and held-out prompts"),
            ("train", "Only training prompts"),
            ("test", "Only held-out prompts"),
        ],
    )
    names = forms.BooleanField(
        required=False, label="Full records: usernames instead of pseudonyms"
    )

    def __init__(self, query: QueryDict | None, *, project: Project):
        initial = {"form": "kwise", "suffix": ".jsonl", **DEFAULTS}
        super().__init__({**initial, **query.dict()} if query else None, initial=initial)
        self.project = project
        self.fields["snapshot"].queryset = Snapshot.objects.filter(project=project)  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        if values.get("form") == "full":
            for name in ("snapshot", "split"):
                if values.get(name):
                    self.add_error(name, "Full records hold the whole project as it is now.")
        elif values.get("names"):
            self.add_error("names", "Only full records can name reviewers.")
        return values

    def export(self) -> Export:
        values = self.cleaned_data
        return Export(
            project=self.project, snapshot=values["snapshot"], form=values["form"],
            pairs=PairOptions(
                ties=values["ties"], keep_identical=values["keep_identical"],
                min_margin=values["min_margin"] or 0.0, max_per_prompt=values["max_pairs"],
            ),
            split=values["split"] or None, names=values["names"],
        )  # fmt: skip


@login_required
@require_GET
def choose(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the form. If the URL contains a choice, show the counts too, for which all rankings are read."""
    project = led_project(request, slug)
    form = ExportForm(request.GET or None, project=project)
    context: dict[str, Any] = {
        "project": project, "section": "projects", "leads": True, "form": form,
        "query": request.GET.urlencode(),
    }  # fmt: skip
    if form.is_bound and form.is_valid():
        counts = form.export().count()
        context["counts"] = [(card.label_of(name), n) for name, n in counts.items() if n]
        context["rows"] = counts["rows"]
    return render(request, "reward/export.html", context)


@login_required
@require_GET
def download(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Stream the file while the rankings are read, 256 prompts at a time."""
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
    """Send the card that the command writes next to the file. All rankings are read to count them."""
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
