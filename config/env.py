"""Declarations of environment variables, each with its name, default and purpose."""

import os
import re
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

    def price(self) -> tuple[float, str] | None:
        """Return an amount and its currency, such as (2.5, "EUR"), or None if the variable is empty."""
        text = self.text()
        if not text:
            return None
        amount, _, currency = text.partition(" ")
        if not re.fullmatch(r"\d{1,9}(\.\d{1,4})?", amount):
            raise ImproperlyConfigured(
                f"{self.name} is {text!r}; it must be an amount, such as 2.50, and may end with a "
                "currency, as in 2.50 EUR."
            )
        return float(amount), currency.strip()

    def choice(self, *values: str) -> str:
        value = self.text().lower()
        if value not in values:
            raise ImproperlyConfigured(
                f"{self.name} is {value!r}; it must be {' or '.join(values)}."
            )
        return value

    def amounts(self) -> dict[str, float]:
        """Return named amounts, such as {"tiebreak": 1.0} for "tiebreak=1"."""
        amounts = {}
        for word in self.words():
            name, _, amount = word.partition("=")
            if not (name.strip() and re.fullmatch(r"\d{1,6}(\.\d{1,4})?", amount.strip())):
                raise ImproperlyConfigured(
                    f"{self.name} contains {word!r}; each entry must be a name and an amount, such as "
                    "tiebreak=1."
                )
            amounts[name.strip()] = float(amount)
        return amounts

    def path_prefix(self) -> str:
        """Return a path such as /tiebreak, or an empty text for the root. Raises ImproperlyConfigured."""
        path = self.text().rstrip("/")
        if path and not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", path):
            raise ImproperlyConfigured(
                f"{self.name} is {self.text()!r}; it must be a path that starts with a slash, such as "
                "/tiebreak, of letters, digits and . _ ~ -"
            )
        return path

    def address(self) -> str:
        """Return an http or https URL that ends with a slash, or an empty text.

        Raises ImproperlyConfigured.
        """
        url = self.text()
        if url and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?(/[\w.~-]+)*/?", url):
            raise ImproperlyConfigured(
                f"{self.name} is {url!r}; it must be an address such as https://cdn.example.org/static/."
            )
        return f"{url.rstrip('/')}/" if url else ""

    def choices(self, *values: str) -> list[str]:
        """Return a list of some of the values, without duplicates."""
        chosen = list(dict.fromkeys(word.lower() for word in self.words()))
        if unknown := [word for word in chosen if word not in values]:
            raise ImproperlyConfigured(
                f"{self.name} contains {', '.join(map(repr, unknown))}; it may contain "
                f"{', '.join(values)}."
            )
        return chosen

    def words(self) -> list[str]:
        return [word for part in self.text().split(",") if (word := part.strip())]


VARIABLES: dict[str, Variable] = {}


def variable(name: str, default: str, help: str) -> Variable:
    """Declare a variable. A test compares the declarations with docs/settings.md."""
    return VARIABLES.setdefault(name, Variable(name, default, help))
