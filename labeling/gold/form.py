"""The lead's form for gold: constraints in rows, each a sentence of three choices."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.core.validators import MaxLengthValidator
from django.forms import formset_factory

from accounts.parameters import number
from labeling.gold.constraints import LONGEST_EXPLANATION, Constraint, Letters
from labeling.models import Gold

RELATIONS = [
    ("", "–"),
    ("above", "belongs above"),
    ("tie_allowed", "may share a place with"),
    ("unacceptable", "is unacceptable"),
]
SPARE_ROWS = 3


class ConstraintRow(forms.Form):
    """Left empty, it says nothing."""

    a = forms.TypedChoiceField(required=False, coerce=int, empty_value=None, label="Response")
    kind = forms.ChoiceField(required=False, choices=RELATIONS, label="What is known")
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
            raise forms.ValidationError("Choose a response and what is known of it.")
        if kind == "unacceptable" and b:
            raise forms.ValidationError(
                "What is unacceptable is so by itself: take the other away."
            )
        if kind != "unacceptable" and not b:
            raise forms.ValidationError("Choose the other response.")

    def constraint(self) -> dict[str, Any] | None:
        said = {name: value for name, value in self.cleaned_data.items() if value}
        return said or None


class Rows(forms.BaseFormSet):
    """At least one row; how many there are is for the form to say."""

    def constraints(self) -> list[dict[str, Any]]:
        return [said for form in self.forms if (said := form.constraint())]


ConstraintRows = formset_factory(
    ConstraintRow, formset=Rows, extra=SPARE_ROWS, max_num=100, absolute_max=100
)


class GoldForm(forms.Form):
    purpose = forms.ChoiceField(choices=Gold.Purpose.choices, widget=forms.RadioSelect)
    explanation = forms.CharField(
        required=False,
        validators=[MaxLengthValidator(LONGEST_EXPLANATION)],  # max_length lets browsers cut it
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Why it is so, in Markdown. Reviewers in training read it after their answer.",
    )


def rows_of(constraints: Sequence[Constraint], letters: Letters, data: Any = None) -> Rows:
    """The rows for these constraints with some to spare; or those that were sent."""
    return ConstraintRows(  # type: ignore[return-value]
        data,
        initial=None if data else [dict(one) for one in constraints],
        prefix="rule",
        form_kwargs={"letters": letters},
    )


def with_more_rows(data: Any) -> Any:
    """What was sent, with rows added."""
    more = data.copy()
    sent = str(more.get("rule-TOTAL_FORMS", ""))
    more["rule-TOTAL_FORMS"] = (number(sent, digits=3) or 0) + SPARE_ROWS
    return more
