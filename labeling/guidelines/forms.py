"""The forms of the guideline editor, for the leads' pages and the admin."""

import sys
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.html import format_html
from django.utils.safestring import SafeString

from labeling.core.text import render, storable
from labeling.models import Criterion, GuidelineVersion

MAX_PREVIEW_LENGTH = 200_000
MAX_CRITERIA = 20
EMPTY_ROWS = 2
"""Number of empty rows for new criteria, for browsers without JavaScript."""


def preview(text: str) -> SafeString:
    """Return the Markdown as HTML, as reviewers will see it."""
    return render(text[:MAX_PREVIEW_LENGTH], line_breaks=False)


class MarkdownEditor(forms.Textarea):
    """A text area with a preview next to it, which a script fetches from `preview_url`."""

    preview_url: Any = ""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        return format_html(
            '<div class="markdown-editor" data-preview-url="{}">{}'
            '<section class="markdown-preview" aria-label="Preview" tabindex="0">'
            '<div class="prose" data-preview aria-live="polite">{}</div></section></div>',
            self.preview_url,
            super().render(name, value, attrs, renderer),
            preview(value or ""),
        )


class DraftForm(forms.ModelForm):
    """A form for a version's text and for the note to reviewers about its changes."""

    class Meta:
        model = GuidelineVersion
        fields: tuple[str, ...] = ("text", "change_note", "requalify")
        labels = {"text": "Guideline", "requalify": "Reviewers qualify again"}
        help_texts = {
            "text": "The description of a good response in this project, in Markdown.",
            "requalify": "Publishing this version ends every qualification.",
        }
        widgets = {"text": MarkdownEditor(attrs={"rows": 24})}

    def __init__(self, *args: Any, preview_url: str = "", **kwargs: Any):
        super().__init__(*args, **kwargs)
        if (
            "text" in self.fields
        ):  # not so for published versions, which the admin shows without fields
            self.fields["text"].widget.preview_url = preview_url

    def clean_text(self) -> str:
        return storable(self.cleaned_data["text"])


class CriterionForm(forms.ModelForm):
    """A form for one criterion. Its number is the position in the list."""

    scale = forms.IntegerField(
        initial=5,
        label="Scale",
        validators=[MinValueValidator(2, "From 2 to 10."), MaxValueValidator(10, "From 2 to 10.")],
        help_text="Ratings go from 1 to this.",
        widget=forms.NumberInput(attrs={"min": 2, "max": 10}),
    )

    class Meta:
        model = Criterion
        fields: tuple[str, ...] = ("name", "meaning", "scale")
        error_messages = {
            "name": {
                "invalid": "Use only letters, digits, hyphens and underscores, as the name is a key."
            }
        }


class _RowForm(CriterionForm):
    """A row for a criterion. It counts as empty without a name and meaning, even if it has a number."""

    def has_changed(self) -> bool:
        return bool({"name", "meaning"} & set(self.changed_data))


class _CriterionFormSet(forms.BaseFormSet):
    def _construct_form(self, i: int, **kwargs: Any) -> forms.Form:
        """Construct a form that may be empty, even if the row had a criterion before."""
        kwargs |= {"empty_permitted": True, "use_required_attribute": False}
        form: forms.Form = super()._construct_form(i, **kwargs)  # type: ignore[misc]
        return form

    def add_fields(self, form: forms.Form, index: int | None) -> None:
        super().add_fields(form, index)
        form.fields["ORDER"].label = "No."
        form.fields["ORDER"].widget.attrs |= {"min": 1}
        form.fields["DELETE"].label = "Remove"

    def clean(self) -> None:
        if any(self.errors):
            return
        names: set[str] = set()
        for form in self.forms:
            name = form.cleaned_data.get("name")
            if not name or form.cleaned_data.get("DELETE"):
                continue
            if name in names:
                form.add_error("name", f"Another criterion is already called {name}.")
            names.add(name)

    @property
    def criteria(self) -> list[dict[str, Any]]:
        """Return the criteria sorted by number. Criteria without a number come last."""
        rows = [form.cleaned_data for form in self.forms]
        filled = [row for row in rows if row.get("name") and not row.get("DELETE")]
        filled.sort(key=lambda row: row.get("ORDER") or sys.maxsize)
        return [{name: row[name] for name in ("name", "meaning", "scale")} for row in filled]


CriterionFormSet: Any = forms.formset_factory(
    _RowForm,
    formset=_CriterionFormSet,
    can_order=True,
    can_delete=True,
    extra=EMPTY_ROWS,
    max_num=MAX_CRITERIA,
    validate_max=True,
)
