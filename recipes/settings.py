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
from dataclasses import MISSING, asdict, dataclass, field, fields
from math import isfinite
from typing import Any, ClassVar, Self


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
    type: type
    optional: bool
    required: bool
    default: Any
    help: str
    min: float | None
    max: float | None
    choices: tuple[Any, ...] | None
    advanced: bool


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    without: ClassVar[frozenset[str]] = frozenset()
    """Inherited settings that have no effect in this recipe. They are neither offered nor accepted."""

    @classmethod
    def options(cls) -> list[Option]:
        """Return the settings in the order of the form: required, inherited, own settings."""
        hints = typing.get_type_hints(cls)
        offered = [item for item in fields(cls) if item.name not in cls.without]
        ordered = sorted(offered, key=lambda item: item.default is not MISSING)
        return [_option(item, hints[item.name]) for item in ordered]

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


def _option(item: Any, hint: Any) -> Option:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    kind = typing.get_origin(kind) or kind  # dict[str, Any] → dict
    metadata = item.metadata
    return Option(
        name=item.name,
        label=metadata.get("label") or item.name.replace("_", " ").capitalize(),
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
        return value.strip()
    return _read_number(item.type, value)


def _read_object(value: Any) -> dict[str, Any]:
    """Return a JSON object. The value is a dict or JSON text."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        read = None
    if not isinstance(read, dict):
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
