"""The launch form of a run kind, built from its config dataclass, and the filters for the list of runs."""

import json
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from django import forms
from django.forms import BoundField
from django.utils.functional import cached_property

from accounts.models import User
from accounts.parameters import number
from recipes.settings import ConfigError, Option
from runs import kinds, services, storage
from runs.kinds import RunKind
from runs.models import Run, RunQuerySet, State, projects_led_by
from runs.services import InvalidConfig


def field_for(option: Option) -> forms.Field:
    """Return the form field for an option.

    Numbers remain text here, because the config class parses them and provides the error messages.
    """
    common = {
        "label": option.label,
        "help_text": option.help,
        "initial": option.default,
        "required": not option.optional
        and (option.required or option.type is not str or option.choices is not None),
    }
    if option.type is bool:
        return forms.BooleanField(**{**common, "required": False})
    if option.choices is not None:
        return forms.ChoiceField(**common, choices=[(c, str(c)) for c in option.choices])
    if option.type in (str, dict):
        return forms.CharField(**common)
    return forms.CharField(**common, widget=_number(option))


def as_text(value: Any) -> Any:
    """Return the value for display in a form. A JSON object becomes text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _number(option: Option) -> forms.NumberInput:
    step = 1 if option.type is int else "any"
    limits = {"min": option.min, "max": option.max, "step": step}
    return forms.NumberInput({name: _short(v) for name, v in limits.items() if v is not None})


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class ConfigForm(forms.Form):
    """A form for the settings of a kind, without those that its inputs determine."""

    prefix = "config"

    def __init__(self, kind: RunKind, data: Any = None, *, initial: dict[str, Any] | None = None):
        super().__init__(data, initial={n: as_text(v) for n, v in (initial or {}).items()})
        self.kind = kind
        self.options = [o for o in kind.config_class.options() if o.name not in kind.decided]
        for option in self.options:
            self.fields[option.name] = field_for(option)

    def essential(self) -> list[BoundField]:
        return [self[option.name] for option in self.options if not option.advanced]

    def advanced(self) -> list[BoundField]:
        return [self[option.name] for option in self.options if option.advanced]

    def advanced_invalid(self) -> bool:
        return any(field.errors for field in self.advanced())

    def full_clean(self) -> None:
        """Leave the validation to the config class, so that no error is shown twice."""
        super().full_clean()
        self.errors.clear()

    def values(self) -> dict[str, Any]:
        return {name: self[name].data for name in self.fields}

    def show(self, errors: dict[str, str]) -> None:
        for name, text in errors.items():
            self.add_error(name if name in self.fields else None, text)


class AboutForm(forms.Form):
    title = forms.CharField(
        required=False,
        max_length=200,
        label="Name",
        help_text="The run's name in the list of runs. If empty, the list shows its kind and number.",
    )
    request_id = forms.UUIDField(widget=forms.HiddenInput)


class Launch:
    """The forms for the inputs, the settings and the name of a run to start.

    They contain a request id, so submitting them twice starts only one run.
    """

    def __init__(self, kind: RunKind, data: Any = None, *, initial: dict[str, Any] | None = None):
        initial = initial or {}
        self.kind = kind
        self.inputs = kind.inputs_form(data, initial=initial)
        self.config = ConfigForm(kind, data, initial=initial)
        self.about = AboutForm(data, initial={**initial, "request_id": uuid4()})

    @property
    def invalid(self) -> bool:
        return bool(self.inputs.errors or self.config.errors or self.about.errors)

    def start(self, by: User) -> Run | None:
        """Queue the run and return it.

        If there are errors, show them next to their fields and return None.
        """
        if not (self.inputs.is_valid() and self.about.is_valid()):
            self._check_settings_alone()
            return None
        try:
            return services.start(
                self.kind.name,
                self.config.values(),
                by,
                inputs=self.inputs.inputs(),
                title=self.about.cleaned_data["title"],
                request_id=self.about.cleaned_data["request_id"],
            )
        except InvalidConfig as error:
            self._show(error.errors)
            return None

    def _check_settings_alone(self) -> None:
        try:
            self.kind.config_class.from_dict(self.config.values())
        except ConfigError as error:
            errors = {n: text for n, text in error.errors.items() if n not in self.kind.decided}
            self.config.show(errors)

    def _show(self, errors: dict[str, str]) -> None:
        if text := errors.pop("inputs", ""):
            self.inputs.add_error(None, text)
        if "request_id" in errors:
            self.about.data = {**self.about.cleaned_data, "request_id": str(uuid4())}
        self.config.show(errors)


def initial_from(kind: RunKind, query: Any) -> dict[str, Any]:
    """Return the initial values that the URL's query sets.

    `?from=RUN` copies the settings of a run, and `?snapshot=3` sets a single field.
    """
    initial = {name: value for name, value in query.items() if name != "from"}
    run_id = number(query.get("from", ""))
    if run_id and (run := Run.objects.filter(pk=run_id, kind=kind.name).first()):
        initial = {**run.config, **run.inputs, "title": run.title, **initial}
    folders = {name: storage.resolve(str(initial[name])) for name in kind.folders & initial.keys()}
    return initial | folders


class FilterForm(forms.Form):
    """The filters for the list of runs. Values that are not among the choices are ignored."""

    q = forms.CharField(
        required=False,
        max_length=200,
        label="Search",
        widget=forms.TextInput({"type": "search", "placeholder": "Name, number or person"}),
    )
    project = forms.ChoiceField(required=False)
    kind = forms.ChoiceField(required=False)
    state = forms.ChoiceField(required=False, choices=[("", "All states"), *State.choices])

    def __init__(self, data: Any, *, user: User):
        super().__init__(data)
        self.user = user
        projects = projects_led_by(user).order_by("name", "pk").values_list("slug", "name")
        titles = [(kind.name, kind.title) for kind in kinds.all_kinds()]
        self._offer("project", "All projects", projects)
        self._offer("kind", "All kinds", titles)

    def _offer(self, name: str, everything: str, choices: Iterable[tuple[str, str]]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", everything), *choices]

    @cached_property
    def chosen(self) -> dict[str, str]:
        """Return the values of the active filters, keyed by field."""
        self.is_valid()
        return {name: value for name, value in self.cleaned_data.items() if value}

    def runs(self) -> RunQuerySet:
        """Return the runs that the user may see and that match the filters."""
        runs = Run.objects.visible_to(self.user)
        if text := self.chosen.get("q"):
            runs = runs.matching(text, kinds=kinds.names_with_title(text))
        if slug := self.chosen.get("project"):
            runs = runs.filter(project__slug=slug)
        exact = {name: self.chosen[name] for name in ("kind", "state") if name in self.chosen}
        return runs.filter(**exact)
