"""Declarations of environment variables, each with its name, default and purpose."""

import os
from dataclasses import dataclass
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from accounts.parameters import number

BASE_DIR = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Variable:
    name: str
    default: str
    help: str

    def text(self) -> str:
        return os.environ.get(self.name, "").strip() or self.default

    def flag(self) -> bool:
        value = self.text().lower()
        if value not in {"0", "1", "true", "false", "yes", "no"}:
            raise ImproperlyConfigured(f"{self.name} is {value!r}; it must be 1 or 0.")
        return value in {"1", "true", "yes"}

    def number(self, minimum: int = 0) -> int:
        value = number(self.text())
        if value is None or value < minimum:
            raise ImproperlyConfigured(
                f"{self.name} is {self.text()!r}; it must be a whole number, at least {minimum}."
            )
        return value

    def words(self) -> list[str]:
        return [word for part in self.text().split(",") if (word := part.strip())]


VARIABLES: dict[str, Variable] = {}


def variable(name: str, default: str, help: str) -> Variable:
    """Declare a variable. A test compares the declarations with docs/settings.md."""
    return VARIABLES.setdefault(name, Variable(name, default, help))
