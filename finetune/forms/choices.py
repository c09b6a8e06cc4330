"""Choices of models, and forms whose choices belong together."""

from typing import Any

from django import forms

from finetune.models import Model
from reward.forms import OfferField
from runs.kinds import InputsForm


class ModelChoiceField(OfferField):
    def label_from_instance(self, obj: Any) -> str:
        mark = " (promoted)" if obj.state == Model.State.PROMOTED else ""
        return f"{obj.project}: {obj}{mark}"


def usable_models() -> Any:
    """Return the models of open projects that are not archived, without those on endpoints.

    They are sorted by project. The promoted model comes first, then the newest models.
    """
    return models_in_use().filter(endpoint="")


def served_models() -> Any:
    """Return the models on endpoints of open projects that are not archived, newest first."""
    return models_in_use().exclude(endpoint="")


def models_in_use() -> Any:
    """Return all models of open projects that are not archived, also those on endpoints."""
    models = Model.objects.filter(project__archived_at=None).select_related("project")
    return models.exclude(state=Model.State.ARCHIVED).order_by("project__name", "-state", "-id")


class SameProject(InputsForm):
    """A form whose choices must all belong to the same project.

    The project is that of one choice, the anchor. The other fields offer only choices that fit the
    anchor. If the anchor changes, the page reloads the form.
    """

    anchor: str
    others: tuple[str, ...]

    def chosen_anchor(self) -> Any:
        """Return the chosen or preselected anchor, or None."""
        field = self.fields[self.anchor]
        assert isinstance(field, forms.ModelChoiceField) and field.queryset is not None
        value = self.data.get(self.anchor) if self.is_bound else self.initial.get(self.anchor)
        try:
            return field.clean(value)
        except forms.ValidationError:
            return field.queryset.first()

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        anchor = values.get(self.anchor)
        for name in self.others:
            part = values.get(name)
            if anchor and part and part.project_id != anchor.project_id:
                self.add_error(
                    name,
                    f"This belongs to {part.project}, but {anchor} belongs to {anchor.project}.",
                )
        return values
