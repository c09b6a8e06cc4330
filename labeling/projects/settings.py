"""A project's settings, in one form for the leads' page and the admin."""

from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import transaction

from accounts.models import User, audit
from labeling.models import Project
from labeling.rankings.content import MAX_RATIONALE_LENGTH

SECTIONS: dict[str, tuple[str, ...]] = {
    "Project": ("name", "description"),
    "Number of rankings": ("rankings_per_task", "overlap", "rankings_at_most", "certainty"),
    "Rankings": ("allow_ties", "allow_partial", "min_rationale", "revision_hours"),
    "Visibility": ("sees_models", "sees_others", "sees_suggestions"),
    "Gold and qualification": ("gold_percent", "qualification_percent"),
    "Queue": ("lease_minutes",),
    "Models": ("promotion_policy", "require_regression_set", "promote_withdrawn", "reviewers_chat"),
}
FIELDS = tuple(name for names in SECTIONS.values() for name in names)
FIELDSETS: list[tuple[str, Any]] = [(name, {"fields": names}) for name, names in SECTIONS.items()]

RANGES = {
    "rankings_per_task": (1, 9),
    "rankings_at_most": (1, 9),
    "min_rationale": (0, MAX_RATIONALE_LENGTH),
    "revision_hours": (0, 8760),
    "gold_percent": (0, 50),
    "qualification_percent": (0, 100),
    "lease_minutes": (1, 1440),
}
LABELS = {
    "rankings_per_task": "Rankings per task",
    "overlap": "Overlap",
    "rankings_at_most": "Maximum rankings per task",
    "allow_ties": "Allow ties",
    "allow_partial": "Allow leaving responses out",
    "min_rationale": "Minimum length of a rationale (characters)",
    "revision_hours": "Revision period (hours)",
    "sees_models": "Model names visible to",
    "sees_others": "Others' rankings visible to",
    "sees_suggestions": "Reward model's scores visible to",
    "gold_percent": "Share of gold (percent)",
    "qualification_percent": "Pass mark (%)",
    "lease_minutes": "Reservation (minutes)",
    "promotion_policy": "Promotion needs",
    "require_regression_set": "Require the regression set",
    "promote_withdrawn": "Allow models with withdrawn data",
    "reviewers_chat": "Allow reviewers to chat",
}
MORE_HELP = {
    "name": "The name shown to reviewers. Renaming the project does not change its address.",
    "description": "A sentence or two for the people who work in it.",
    "rankings_per_task": "Existing tasks are unchanged. Request more rankings of them under Data.",
    "overlap": "Checked after each ranking, and again after a revision.",
    "certainty": "Between 0.5 and 1. At 0.9, two careful reviewers who agree are enough, and a "
    "third reviewer is asked when they disagree.",
    "sees_others": "Their names are never shown.",
}


class PolicyForm(forms.ModelForm):
    """A form for settings. It checks the database's constraints, to show each error next to its field."""

    class Meta:
        model = Project
        fields = FIELDS
        widgets = {"description": forms.Textarea(attrs={"rows": 3})}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name, label in LABELS.items():
            if field := self.fields.get(name):
                field.label = label
        for name, help_text in MORE_HELP.items():
            if field := self.fields.get(name):
                field.help_text = f"{field.help_text} {help_text}".strip()
        for name, (low, high) in RANGES.items():
            if field := self.fields.get(name):
                sentence = f"From {low:,} to {high:,}."
                field.validators += [
                    MinValueValidator(low, sentence),
                    MaxValueValidator(high, sentence),
                ]
                field.widget.attrs |= {"min": low, "max": high}
        if certainty := self.fields.get("certainty"):
            certainty.widget.attrs |= {"min": 0.51, "max": 0.999, "step": "any"}

    def clean_certainty(self) -> float:
        certainty: float = self.cleaned_data["certainty"]
        if not 0.5 < certainty < 1:
            raise forms.ValidationError(
                "Enter a number between 0.5 and 1. At 0.5 no task would be ranked twice, and 1 "
                "can never be reached."
            )
        return certainty

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        few, many = values.get("rankings_per_task"), values.get("rankings_at_most")
        sequential = values.get("overlap") == Project.Overlap.SEQUENTIAL
        if sequential and few and many and many < few:
            self.add_error(
                "rankings_at_most",
                f"Must be at least {few}, the number of rankings per task.",
            )
        return values


@transaction.atomic
def change(*, project: Project, form: PolicyForm, by: User) -> list[str]:
    """Save the changed fields of a valid form, write an audit entry, and return the fields' names."""
    changed = [name for name in form.changed_data if name in FIELDS]
    if changed:
        form.instance.save(update_fields=changed)
        note(project, form, by)
    return changed


def note(project: Project, form: forms.ModelForm, by: User) -> None:
    """Write an audit entry with the old and new value of each setting that a form has changed."""
    changes = {
        name: [form.initial.get(name), form.cleaned_data[name]]
        for name in form.changed_data
        if name in FIELDS
    }
    if changes:
        audit(by, "project settings changed", project, changes=changes)
