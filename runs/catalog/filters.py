"""The filters and the order of the list of runs."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

from django import forms
from django.db.models import F, Func, TextField
from django.db.models.functions import Lower
from django.utils.functional import cached_property

from accounts.models import User
from accounts.parameters import number
from runs import kinds
from runs.catalog.metrics import metric_names, metric_value
from runs.catalog.references import MOST_CHOICES, Reference, all_references
from runs.models import Run, RunQuerySet, State, projects_led_by
from runs.templatetags.runs import metric as metric_label

SORTED_BY: dict[str, Any] = {
    "name": Lower("title"),
    "kind": F("kind"),
    "state": F("state"),
    "created": F("id"),
    "duration": F("finished_at") - F("started_at"),
}
"""The orders of the list by their names in the URL. A minus in front of the name reverses them."""


class ShareField(forms.Field):
    """A number or a percentage, such as 0.7 or 70%. It becomes a float."""

    widget = forms.TextInput({"inputmode": "decimal", "size": 6})

    def to_python(self, value: Any) -> float | None:
        text = (value or "").strip()
        if not text:
            return None
        try:
            result = float(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
        except ValueError:
            result = float("nan")
        if not isfinite(result):
            raise forms.ValidationError("Enter a number, such as 0.7 or 70%.")
        return result


class FilterForm(forms.Form):
    """The filters for the list of runs. Values that are not among the choices are ignored."""

    q = forms.CharField(
        required=False,
        max_length=200,
        label="Search",
        widget=forms.TextInput({"type": "search", "placeholder": "Name, number, person or tag"}),
    )
    project = forms.ChoiceField(required=False)
    kind = forms.ChoiceField(required=False)
    state = forms.ChoiceField(required=False, choices=[("", "All states"), *State.choices])
    tag = forms.ChoiceField(required=False)
    show = forms.ChoiceField(
        required=False,
        label="Archive",
        choices=[("", "Without archived"), ("archived", "Archived only"), ("all", "With archived")],
    )
    metric = forms.ChoiceField(required=False)
    least = ShareField(required=False, label="At least")
    most = ShareField(required=False, label="At most")

    def __init__(self, data: Any, *, user: User):
        super().__init__(data)
        self.user = user
        projects = projects_led_by(user).order_by("name", "pk").values_list("slug", "name")
        titles = [(kind.name, kind.title) for kind in kinds.all_kinds()]
        names = metric_names(self._visible())
        self._offer("project", "All projects", projects)
        self._offer("kind", "All kinds", titles)
        self._offer("tag", "All tags", [(tag, tag) for tag in tags_in_use(self._visible())])
        self._offer("metric", "No metric", [(name, metric_label(name)) for name in names])
        for reference in all_references():
            self.fields[reference.name] = forms.ChoiceField(required=False, label=reference.label)
            choices = list(reference.choices(user))[:MOST_CHOICES]
            self._offer(
                reference.name,
                f"All {reference.label.lower()}s",
                self._with_current(reference, [(str(pk), label) for pk, label in choices]),
            )

    def _visible(self) -> RunQuerySet:
        return Run.objects.visible_to(self.user)

    def _with_current(
        self, reference: Reference, choices: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Return the choices, with the chosen row if it is too old to be among them."""
        value = self.data.get(reference.name, "")
        if number(value) is not None and value not in dict(choices):
            return [*choices, (value, f"{reference.label} {value}")]
        return choices

    def _offer(self, name: str, everything: str, choices: Iterable[tuple[str, str]]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", everything), *choices]

    def more(self) -> list[forms.BoundField]:
        """Return the fields of the filters that are folded."""
        names = [*(reference.name for reference in all_references()), "tag", "show"]
        return [self[name] for name in [*names, "metric", "least", "most"]]

    @property
    def more_chosen(self) -> bool:
        return bool(self.errors) or any(field.name in self.chosen for field in self.more())

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """Return the values of the active filters, keyed by field."""
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value not in ("", None)}

    @property
    def metric_name(self) -> str:
        """Return the metric that the list shows, or ""."""
        return str(self.chosen.get("metric", ""))

    def order(self) -> str:
        """Return the order from the URL, such as "-metric". The default is "-created"."""
        order = self.data.get("sort", "")
        names = {*SORTED_BY, *(["metric"] if self.metric_name else [])}
        return order if order.removeprefix("-") in names else "-created"

    def runs(self) -> RunQuerySet:
        """Return the runs that the user may see and that match the filters, in the chosen order."""
        runs = self._visible()
        if text := self.chosen.get("q"):
            runs = runs.matching(text, kinds=kinds.names_with_title(text))
        if slug := self.chosen.get("project"):
            runs = runs.filter(project__slug=slug)
        if tag := self.chosen.get("tag"):
            runs = runs.filter(tags__contains=[tag])
        for reference in all_references():
            if pk := self.chosen.get(reference.name):
                runs = runs.filter(reference.matching(int(pk)))
        if self.chosen.get("show") == "archived":
            runs = runs.exclude(archived_at=None)
        elif self.chosen.get("show") != "all":
            runs = runs.in_use()
        exact = {name: self.chosen[name] for name in ("kind", "state") if name in self.chosen}
        return self._sorted(self._measured(runs.filter(**exact)))

    def _measured(self, runs: RunQuerySet) -> RunQuerySet:
        """Return the runs with their value of the chosen metric, within its limits."""
        if not self.metric_name:
            return runs
        runs = runs.annotate(metric=metric_value(self.metric_name))
        limits = {"least": "metric__gte", "most": "metric__lte"}
        return runs.filter(
            **{lookup: self.chosen[name] for name, lookup in limits.items() if name in self.chosen}
        )

    def _sorted(self, runs: RunQuerySet) -> RunQuerySet:
        order = self.order()
        key = {**SORTED_BY, "metric": F("metric")}[order.removeprefix("-")]
        if order.startswith("-"):
            return runs.order_by(key.desc(nulls_last=True), "-id")
        return runs.order_by(key.asc(nulls_last=True), "-id")


def tags_in_use(runs: RunQuerySet) -> list[str]:
    """Return the tags of the runs in alphabetical order. Costs one query."""
    tag = Func(F("tags"), function="unnest", output_field=TextField())
    tags = runs.exclude(tags=[]).annotate(tag=tag).order_by().values_list("tag", flat=True)
    return sorted(tags.distinct(), key=str.casefold)
