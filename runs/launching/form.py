"""The launch form of a run kind: its inputs, a preset, the settings, and a review of the run.

The settings are built from the config dataclass of the kind.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from django import forms
from django.forms import BoundField
from django.utils.functional import cached_property

from accounts.models import User
from accounts.parameters import number
from recipes.presets import Preset
from recipes.settings import Change, ConfigError, Option
from runs import services, storage
from runs.kinds import RunKind
from runs.launching.command_line import command_line
from runs.launching.first_batch import NoFirstBatch, first_batch_of
from runs.models import Run, projects_trained_by
from runs.services import InvalidConfig, SameRun

OWN_SETTINGS = ""
"""The heading of advanced settings that only this kind has."""


class TextField(forms.CharField):
    """A field for text or a number. The template shows the unit after it."""

    def __init__(self, *args: Any, unit: str = "", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.unit = unit


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
        return TextField(**common, unit=option.unit)
    return TextField(**common, unit=option.unit, widget=_number(option))


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

    def sections(self) -> list[tuple[str, list[BoundField]]]:
        """Return the advanced settings by heading. Those of the kind alone come first."""
        advanced = {field.name: field for field in self.advanced()}
        sections = [
            (heading, [advanced.pop(name) for name in names if name in advanced])
            for heading, names in self.kind.config_class.sections.items()
        ]
        return [
            (h, fields) for h, fields in [(OWN_SETTINGS, [*advanced.values()]), *sections] if fields
        ]

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
    again = forms.BooleanField(
        required=False,
        label="Start it again anyway",
        help_text="The second run takes as long as the first and gives the same result.",
    )
    request_id = forms.UUIDField(widget=forms.HiddenInput)


# --- presets -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A preset as the form offers it, or the defaults if `name` is empty."""

    name: str
    title: str
    description: str
    values: str
    chosen: bool


class PresetChoice:
    """The preset of a launch form, and the preset that the settings in the form begin from.

    They differ if somebody has chosen another preset since the settings were shown. `problem` says
    why the chosen preset was ignored.
    """

    def __init__(self, kind: RunKind, chosen: str, applied: str | None):
        self.config_class = kind.config_class
        self.presets = {preset.name: preset for preset in self.config_class.presets()}
        self.problem = ""
        try:
            self.config_class.with_preset(chosen, {})
        except ConfigError as error:
            self.problem, chosen = error.errors["preset"], ""
        self.name = chosen
        self.applied = applied if applied in self.presets or applied == "" else chosen

    @property
    def has_changed(self) -> bool:
        return self.name != self.applied

    @property
    def title(self) -> str:
        return self.presets[self.name].title if self.name else "the defaults"

    def choices(self) -> list[Choice]:
        defaults = Choice(
            "", "Defaults", "A good start for most models and data.", "", not self.name
        )
        return [defaults, *map(self._choice, self.presets.values())] if self.presets else []

    def _choice(self, preset: Preset) -> Choice:
        labels = {option.name: option for option in self.config_class.options()}
        values = ", ".join(
            f"{labels[name].label} {labels[name].as_text(value)}"
            for name, value in preset.values.items()
        )
        return Choice(
            preset.name, preset.title, preset.description, values, preset.name == self.name
        )

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a form after the change of the preset.

        The new preset decides its own settings. The others that the user has changed are kept, and
        the rest get their defaults.
        """
        new, own = self.config_class.base_values(self.name), dict[str, Any]()
        if self.name:
            own = dict(self.presets[self.name].values)
        changed = {c.option.name for c in self.config_class.changes(values, self.applied)}
        return {
            name: values[name]
            if name not in new or (name in changed and name not in own)
            else new[name]
            for name in values
        }


# --- the whole form ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Review:
    """The run that a form would start. `command` is empty if there are problems, one sentence each."""

    changes: list[Change]
    command: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


class Launch:
    """The forms for the inputs, the settings and the name of a run to start.

    They contain a request id, so submitting them twice starts only one run. If the chosen preset has
    changed, the settings follow it, and nothing is started before the user has seen them.
    """

    def __init__(
        self,
        kind: RunKind,
        data: Any = None,
        *,
        initial: dict[str, Any] | None = None,
        by: User | None = None,
    ):
        """Make the forms. They offer only inputs of projects in which the user `by` may train."""
        initial, source = initial or {}, initial if data is None else data
        self.kind = kind
        applied = None if data is None else data.get("applied", data.get("preset", ""))
        self.preset = PresetChoice(kind, (source or {}).get("preset", ""), applied)
        if data is None:
            initial = {**self.preset.config_class.with_preset(self.preset.name, {}), **initial}
        elif self.preset.has_changed:
            data = self._with_preset(data)
        projects = projects_trained_by(by) if by else None
        self.inputs = kind.inputs_form(data, initial=initial, projects=projects)
        self.config = ConfigForm(kind, data, initial=initial)
        self.about = AboutForm(data, initial={**initial, "request_id": uuid4()})
        self.same: Run | None = None
        """A run that has not ended and has the same settings, if `start` has refused to repeat it."""

    def _with_preset(self, data: Any) -> Any:
        form = ConfigForm(self.kind, data)
        options = {option.name: option for option in form.options}
        data = data.copy()
        for name, value in self.preset.settings(form.values()).items():
            key = form.add_prefix(name)
            if value is False:
                data.pop(key, None)
            elif not isinstance(value, str):
                data[key] = options[name].as_text(value)
        return data

    @property
    def invalid(self) -> bool:
        return bool(self.inputs.errors or self.config.errors or self.about.errors)

    def start(self, by: User) -> Run | None:
        """Queue the run and return it.

        If there are errors, or if the preset has just changed the settings, return None. Errors are
        shown next to their fields.
        """
        valid = self.inputs.is_valid() & self.about.is_valid()
        if self.preset.problem:
            self.about.add_error(None, self.preset.problem)
            valid = False
        if not valid:
            self._renew_request_id()
            self._check_settings_alone()
            return None
        if self.preset.has_changed:
            return None
        about = self.about.cleaned_data
        try:
            return services.start(
                self.kind.name,
                self.config.values(),
                by,
                inputs=self.inputs.inputs(),
                preset=self.preset.name,
                title=about["title"],
                request_id=about["request_id"],
                again=about["again"],
            )
        except InvalidConfig as error:
            self.same = error.run if isinstance(error, SameRun) else None
            self._show(error.errors)
            return None

    @cached_property
    def review(self) -> Review | None:
        """Return the run that the form would start, or None for a form without data."""
        if not self.config.is_bound:
            return None
        values, preset = self.config.values(), self.preset.name
        changes = self.kind.config_class.changes(values, preset)
        errors = {**self.inputs.errors, **self.about.errors}
        problems = [("Preset", self.preset.problem)] if self.preset.problem else []
        problems += [
            (self._label(name), str(text)) for name, texts in errors.items() for text in texts
        ]
        if problems:
            return Review(changes, problems=problems)
        inputs, title = self.inputs.inputs(), self.about.cleaned_data["title"]
        try:
            config = services.checked(self.kind.name, values, inputs, preset)
        except InvalidConfig as error:
            problems = [(self._label(name), text) for name, text in error.errors.items()]
            return Review(changes, problems=problems)
        command = command_line(self.kind, config, inputs, preset=preset, title=title)
        return Review(changes, command, config, inputs)

    def first_batch(self, *, again: bool = False) -> tuple[dict[str, Any] | None, str]:
        """Return the first batch of the run, or None and the reason why it cannot be shown.

        Without a reason, a worker is computing it. With `again`, a request that failed is repeated.
        """
        review = self.review
        if not self.kind.first_batch:
            return None, "Runs of this kind do not train, so they have no batch."
        if review is None or review.problems:
            return None, "Correct the form first. The review lists what is wrong."
        try:
            batch = first_batch_of(self.kind, review.config, review.inputs, again=again)
            return batch, ""
        except NoFirstBatch as problem:
            return None, str(problem)

    def _label(self, name: str) -> str:
        for form in (self.inputs, self.config, self.about):
            if name in form.fields:
                return str(form[name].label)
        return ""

    def _check_settings_alone(self) -> None:
        try:
            self.kind.config_class.from_dict(self.config.values())
        except ConfigError as error:
            errors = {n: text for n, text in error.errors.items() if n not in self.kind.decided}
            self.config.show(errors)

    def _show(self, errors: dict[str, str]) -> None:
        if text := errors.pop("inputs", ""):
            self.inputs.add_error(None, text)
        if text := errors.pop("again", ""):
            self.about.add_error("again", text)
        if text := errors.pop("request_id", ""):
            self.about.add_error(None, text)
            self._renew_request_id(force=True)
        self.config.show(errors)

    def _renew_request_id(self, *, force: bool = False) -> None:
        """Replace a request id that was used for another run, or that is not valid."""
        if not force and "request_id" not in self.about.errors:
            return
        if self.about.errors.pop("request_id", None):
            self.about.add_error(None, "The form was sent incompletely. Send it again.")
        self.about.data = {**dict(self.about.data.items()), "request_id": str(uuid4())}


def initial_from(kind: RunKind, query: Any, by: User) -> dict[str, Any]:
    """Return the initial values that the URL's query sets.

    `?from=RUN` copies the settings of a run that the user may see, `?preset=NAME` chooses a preset, and `?snapshot=3` sets a
    single field.
    """
    initial = {name: value for name, value in query.items() if name != "from"}
    run_id = number(query.get("from", ""))
    if run_id and (run := Run.objects.visible_to(by).filter(pk=run_id, kind=kind.name).first()):
        initial = {**run.config, **run.inputs, "title": run.title, **initial}
    folders = {name: storage.resolve(str(initial[name])) for name in kind.folders & initial.keys()}
    return initial | folders
