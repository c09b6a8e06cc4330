"""The form in which a lead enters gold, with a row of three choices for each constraint."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.core.validators import MaxLengthValidator
from django.forms import formset_factory

from accounts.parameters import number
from labeling.gold.constraints import Constraint, Letters
from labeling.gold.making import MAX_EXPLANATION_LENGTH
from labeling.models import Gold

RELATIONS = [
    ("", "–"),
    ("above", "belongs above"),
    ("tie_allowed", "may tie with"),
    ("unacceptable", "is unacceptable"),
]
SPARE_ROWS = 3


class ConstraintRow(forms.Form):
    """The form for one constraint. Empty rows are ignored."""

    a = forms.TypedChoiceField(required=False, coerce=int, empty_value=None, label="Response")
    kind = forms.ChoiceField(required=False, choices=RELATIONS, label="Relation")
    b = forms.TypedChoiceField(required=False, coerce=int, empty_value=None, label="Other response")

    def __init__(self, *args: Any, letters: Letters, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name in ("a", "b"):
            field: Any = self.fields[name]
            field.choices = [("", "–"), *((pk, letter) for pk, letter in letters.items())]

    def clean(self) -> None:
        a, kind, b = (self.cleaned_data.get(name) for name in ("a", "kind", "b"))
        if self.errors or not (a or kind or b):
            return
        if not (a and kind):
            raise forms.ValidationError("Choose a response and a relation.")
        if kind == "unacceptable" and b:
            raise forms.ValidationError(
                "Only one response can be unacceptable. Clear the other one."
            )
        if kind != "unacceptable" and not b:
            raise forms.ValidationError("Choose the other response.")

    def constraint(self) -> dict[str, Any] | None:
        constraint = {name: value for name, value in self.cleaned_data.items() if value}
        return constraint or None


class Rows(forms.BaseFormSet):
    """The form's rows of constraints, as many as were submitted."""

    def constraints(self) -> list[dict[str, Any]]:
        return [rule for form in self.forms if (rule := form.constraint())]


ConstraintRows = formset_factory(
    ConstraintRow, formset=Rows, extra=SPARE_ROWS, max_num=100, absolute_max=100
)


class GoldForm(forms.Form):
    purpose = forms.ChoiceField(choices=Gold.Purpose.choices, widget=forms.RadioSelect)
    explanation = forms.CharField(
        required=False,
        validators=[
            MaxLengthValidator(MAX_EXPLANATION_LENGTH)
        ],  # with max_length, browsers would cut the text
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="The reasons, in Markdown. Reviewers in training see this after they answer.",
    )


def rows_of(constraints: Sequence[Constraint], letters: Letters, data: Any = None) -> Rows:
    """Return the submitted rows, or rows for these constraints followed by some empty rows."""
    return ConstraintRows(  # type: ignore[return-value]
        data,
        initial=None if data else [dict(constraint) for constraint in constraints],
        prefix="rule",
        form_kwargs={"letters": letters},
    )


def with_more_rows(data: Any) -> Any:
    """Return the submitted data with SPARE_ROWS more rows."""
    more = data.copy()
    sent = str(more.get("rule-TOTAL_FORMS", ""))
    more["rule-TOTAL_FORMS"] = (number(sent, digits=3) or 0) + SPARE_ROWS
    return more
