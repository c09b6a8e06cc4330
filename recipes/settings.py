"""Recipe settings: a frozen dataclass per recipe, read from JSON, the command line or the web form.

This module needs neither Django nor torch. Declare each field with `option`, which has its help text
and its limits. `RecipeConfig` reads the values, checks them, and reports an error for each invalid
field.

    @dataclass(frozen=True, kw_only=True)
    class TrainConfig(RecipeConfig):
        epochs: int = option(1, "How many times training passes over the pairs.", min=1, max=20)

    config = TrainConfig.from_dict({"epochs": 2})     # raises ConfigError, with .errors by field
"""

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from math import isfinite
from typing import Any, ClassVar, Self

from recipes.presets import GOALS, Preset, PresetValues


class ConfigError(ValueError):
    """Invalid settings. `errors` has a sentence for each invalid field."""

    def __init__(self, errors: dict[str, str]):
        super().__init__(" ".join(f"{name}: {text}" for name, text in errors.items()))
        self.errors = errors


def option(
    default: Any,
    help: str,
    *,
    label: str | None = None,
    unit: str = "",
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[Any] | None = None,
    advanced: bool = False,
) -> Any:
    """Return a dataclass field.

    Limits are inclusive, and `default=MISSING` makes the field required.
    """
    metadata = {
        "help": help,
        "label": label,
        "unit": unit,
        "min": min,
        "max": max,
        "choices": None if choices is None else tuple(choices),
        "advanced": advanced,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """The description of one field, for forms and help pages."""

    name: str
    label: str
    unit: str
    type: type
    optional: bool
    required: bool
    default: Any
    help: str
    min: float | None
    max: float | None
    choices: tuple[Any, ...] | None
    advanced: bool

    def read(self, value: Any) -> Any:
        """Return the value of a form, the command line or a JSON file, with the type of the setting.

        Raises ValueError. The limits are not checked.
        """
        return _read(self, value)

    def as_text(self, value: Any) -> str:
        """Return the text that `read` turns into this value."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


@dataclass(frozen=True)
class Change:
    """A setting whose value differs from that of a preset. `after` is a text that may be invalid."""

    option: Option
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    without: ClassVar[frozenset[str]] = frozenset()
    """Inherited settings that have no effect in this recipe. They are neither offered nor accepted."""
    preset_values: ClassVar[PresetValues] = {}
    """The presets of this class, in addition to those of its base classes. Its values take precedence."""

    importance: ClassVar[tuple[str, ...]] = ()
    """The names of the most important settings. They come first, and the others keep their order."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """The advanced settings by the heading under which the form shows them. Others have no heading."""

    @classmethod
    def options(cls) -> list[Option]:
        """Return the settings in the order of the form.

        Required settings come first, then those of `importance`, the inherited and the own ones.
        """
        hints = typing.get_type_hints(cls)
        offered = [item for item in fields(cls) if item.name not in cls.without]
        ranks = {name: rank for rank, name in enumerate(cls.importance)}
        ordered = sorted(
            offered,
            key=lambda item: (item.default is not MISSING, ranks.get(item.name, len(ranks))),
        )
        return [_option(item, hints[item.name]) for item in ordered]

    @classmethod
    def presets(cls) -> list[Preset]:
        """Return the presets of the recipe. A recipe without preset values has none."""
        values: dict[str, dict[str, Any]] = {}
        for base in reversed(cls.__mro__):
            for preset, own in vars(base).get("preset_values", {}).items():
                values.setdefault(preset, {}).update(own)
        defaults = {item.name: item.default for item in cls.options()}
        return [
            Preset(name, *GOALS[name], {n: v for n, v in own.items() if defaults.get(n, v) != v})
            for name in GOALS
            if (own := values.get(name))
        ]

    @classmethod
    def base_values(cls, preset: str = "") -> dict[str, Any]:
        """Return the defaults, with the values of a preset. Raises ConfigError."""
        defaults = {item.name: item.default for item in cls.options() if not item.required}
        return {**defaults, **cls.with_preset(preset, {})}

    @classmethod
    def changes(cls, values: Mapping[str, Any], preset: str = "") -> list[Change]:
        """Return the settings whose values differ from those of a preset, in the order of the form.

        A value that cannot be read differs. Required settings, which no preset has, are left out.
        Raises ConfigError for an unknown preset.
        """
        base = cls.base_values(preset)
        return [
            Change(item, base[item.name], values[item.name])
            for item in cls.options()
            if item.name in base and item.name in values and _differs(item, base, values)
        ]

    @classmethod
    def with_preset(cls, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values, in addition to those of a preset. No preset is "".

        Raises ConfigError if the recipe has no such preset.
        """
        if not name:
            return dict(values)
        presets = {preset.name: preset for preset in cls.presets()}
        if name not in presets:
            raise ConfigError({"preset": _no_preset(name, list(presets))})
        return {**presets[name].values, **values}

    @classmethod
    def label_of(cls, name: str) -> str:
        return next(item.label for item in cls.options() if item.name == name)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the config with these values.

        Raises ConfigError for unknown settings, and for values that are missing or invalid or have
        the wrong type.
        """
        options = {item.name: item for item in cls.options()}
        errors = {
            name: f"{cls.__name__} has no such setting." for name in values if name not in options
        }
        read: dict[str, Any] = {}
        for name, item in options.items():
            if name not in values:
                if item.required:
                    errors[name] = "This setting is required."
                continue
            try:
                read[name] = _read(item, values[name])
            except ValueError as error:
                errors[name] = str(error)
        if errors:
            raise ConfigError(errors)
        config = cls(**read)
        config.validate()
        return config

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in self.without}

    def validate(self) -> None:
        """Raise ConfigError if a value is outside its limits or if values contradict each other."""
        errors: dict[str, str] = {}
        for item in self.options():
            problem = _problem(item, getattr(self, item.name))
            if problem:
                errors[item.name] = problem
        errors = errors or self.conflicts()
        if errors:
            raise ConfigError(errors)

    def conflicts(self) -> dict[str, str]:
        """Return an error for each field whose value contradicts another. Subclasses override this."""
        return {}

    def unused(self) -> dict[str, str]:
        """Return a sentence for each setting that has no effect because of another setting.

        Subclasses extend this. `without_unused` refuses such settings.
        """
        return {}

    def without_unused(self, preset: str = "") -> Self:
        """Return the config with the defaults of unused settings.

        Raises ConfigError if an unused setting differs from its default and from the preset, because
        the user who chose its value expects an effect.
        """
        reasons, base, defaults = self.unused(), self.base_values(preset), self.base_values()
        errors = {
            name: reason
            for name, reason in reasons.items()
            if getattr(self, name) not in (base[name], defaults[name])
        }
        if errors:
            raise ConfigError(errors)
        return replace(self, **{name: defaults[name] for name in reasons})


def _differs(item: Option, base: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    try:
        return bool(item.read(values[item.name]) != base[item.name])
    except ValueError:
        return True


def _no_preset(name: str, names: list[str]) -> str:
    if not names:
        return f"There is no preset {name!r}. Runs of this kind have no presets."
    return f"There is no preset {name!r}. The presets are: {', '.join(names)}."


def _option(item: Any, hint: Any) -> Option:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    kind = typing.get_origin(kind) or kind  # dict[str, Any] → dict
    metadata = item.metadata
    return Option(
        name=item.name,
        label=metadata.get("label") or item.name.replace("_", " ").capitalize(),
        unit=metadata.get("unit", ""),
        type=kind,
        optional=types.NoneType in kinds,
        required=item.default is MISSING,
        default=None if item.default is MISSING else item.default,
        help=metadata.get("help", ""),
        min=metadata.get("min"),
        max=metadata.get("max"),
        choices=metadata.get("choices"),
        advanced=metadata.get("advanced", False),
    )


def _read(item: Option, value: Any) -> Any:
    if value is None or (value == "" and item.type is not str):
        if item.optional:
            return None
        raise ValueError("This setting may not be empty.")
    if item.type is bool:
        return _read_bool(value)
    if item.type is dict:
        return _read_object(value)
    if item.type is str:
        if not isinstance(value, str):
            raise ValueError(f"Expected text, got {value!r}.")
        if "\0" in value:
            raise ValueError("The text contains a null character, which cannot be stored.")
        return value.strip()
    return _read_number(item.type, value)


def _read_object(value: Any) -> dict[str, Any]:
    """Return a JSON object. The value is a dict or JSON text."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        read = None
    if not isinstance(read, dict) or "\\u0000" in json.dumps(read):
        raise ValueError(f'Expected a JSON object such as {{"name": true}}, got {value!r}.')
    return read


def _read_bool(value: Any) -> bool:
    words = {True: True, False: False, "true": True, "false": False, "on": True, "off": False}
    key = value.strip().lower() if isinstance(value, str) else value
    if isinstance(key, bool | str) and key in words:
        return words[key]
    raise ValueError(f"Expected yes or no, got {value!r}.")


def _read_number(kind: type, value: Any) -> int | float:
    what = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"Expected {what}, got {value!r}.")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"Expected {what}, got {value!r}.") from None
    if not isfinite(number) or (kind is int and number != int(number)):
        raise ValueError(f"Expected {what}, got {value!r}.")
    if kind is int:
        return value if isinstance(value, int) else int(number)
    return number


def _problem(item: Option, value: Any) -> str | None:
    if value is None:
        return None if item.optional else "This setting may not be empty."
    if item.required and item.type is str and not value:
        return "This setting may not be empty."
    if item.choices is not None and value not in item.choices:
        return f"Choose one of {', '.join(map(str, item.choices))}."
    if item.min is not None and value < item.min:
        return f"Must be at least {item.min:g}."
    if item.max is not None and value > item.max:
        return f"Must be at most {item.max:g}."
    return None
