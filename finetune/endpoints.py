"""Endpoints: OpenAI-compatible servers that the operator declares in a TOML file.

    [hosted]                                  # the name, which rows and pages use
    url = "https://api.example.com/v1"
    key_variable = "HOSTED_API_KEY"           # the environment variable with the key, never the key
    models = ["small-1", "large-1"]           # if left out, any model name can be added
    input_price = 0.15                        # per million tokens
    output_price = 0.60

A user of the web chooses an endpoint by its name and never enters an address. So nobody but the operator
decides to which servers a worker connects (server-side request forgery). This module needs neither
Django nor torch.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*", re.ASCII)
MODEL_NAME = re.compile(r"[\w./:@+-]{1,200}", re.ASCII)
MAX_TOKENS_NAMES = ("max_tokens", "max_completion_tokens")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class EndpointProblem(ValueError):  # noqa: N818
    """An invalid declaration, or an endpoint that is not declared. The text is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server, with the limits of requests to it."""

    name: str
    url: str
    key_variable: str = ""
    models: tuple[str, ...] = ()
    """The models that may be used. If empty, any model of the server may be used."""
    concurrency: int = 4
    """The maximum number of requests at the same time in a run."""
    seconds: int = 120
    """The time limit for a request, from the connection to the last byte of the response."""
    tries: int = 6
    """The maximum number of attempts of a request."""
    longest_wait: int = 600
    """The longest Retry-After that is waited for, in seconds."""
    response_kb: int = 1024
    """The maximum size of a response, in kB."""
    seeds: bool = True
    """Whether requests have a seed."""
    max_tokens_name: str = "max_tokens"
    """The request's parameter for the maximum number of tokens, one of MAX_TOKENS_NAMES."""
    input_price: float | None = None
    output_price: float | None = None
    """The prices of a million tokens of input and of output."""
    currency: str = "USD"

    def offers(self, model: str) -> bool:
        return model in self.models if self.models else bool(MODEL_NAME.fullmatch(model))

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """Return the price of the tokens, or None if no price is declared."""
        if self.input_price is None and self.output_price is None:
            return None
        total = input_tokens * (self.input_price or 0) + output_tokens * (self.output_price or 0)
        return total / 1e6

    @property
    def sends_key_in_clear(self) -> bool:
        """Return whether the key is sent over the network without encryption."""
        parts = urlsplit(self.url)
        return bool(self.key_variable) and parts.scheme == "http" and parts.hostname not in LOOPBACK

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "models": list(self.models)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Endpoint":
        """Return the endpoint that `to_dict` described. Raises EndpointProblem."""
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            raise EndpointProblem("The description of an endpoint needs a name.")
        return _endpoint(values["name"], {k: v for k, v in values.items() if k != "name"})


def read_endpoints(path: Path) -> dict[str, Endpoint]:
    """Return the endpoints of a file by name, or {} without the file. Raises EndpointProblem."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EndpointProblem(f"{path} cannot be read: {error}.") from None
    try:
        return {name: _endpoint(name, table) for name, table in tables.items()}
    except EndpointProblem as problem:
        raise EndpointProblem(f"{path}: {problem}") from None


RANGES = {
    "concurrency": (1, 64),
    "seconds": (1, 3600),
    "tries": (1, 20),
    "longest_wait": (0, 86_400),
    "response_kb": (1, 65_536),
}


def _endpoint(name: str, table: Any) -> Endpoint:
    where = f"The endpoint {name!r}"
    if not NAME.fullmatch(name):
        raise EndpointProblem(
            f"{where} needs another name: 1 to 40 lower-case letters, digits and hyphens."
        )
    if not isinstance(table, dict):
        raise EndpointProblem(f"{where} must be a table with at least a url.")
    names = {field.name for field in fields(Endpoint)} - {"name"}
    if unknown := sorted(table.keys() - names):
        raise EndpointProblem(
            f"{where} has the unknown setting {', '.join(unknown)}. The settings are "
            f"{', '.join(sorted(names))}."
        )
    values = dict(table)
    for setting, value in values.items():
        if problem := _problem(setting, value):
            raise EndpointProblem(f"{where}: {setting} {problem}; it is {value!r}.")
    if "url" not in values:
        raise EndpointProblem(f"{where} has no url.")
    values["url"] = values["url"].rstrip("/")
    values["models"] = tuple(values.get("models", ()))
    return Endpoint(name=name, **values)


def _problem(setting: str, value: Any) -> str:
    """Return the reason why the value of a setting is invalid, as a predicate, or ""."""
    if setting in RANGES:
        low, high = RANGES[setting]
        valid = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return "" if valid else f"must be a whole number from {low} to {high}"
    if setting in ("input_price", "output_price"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        valid = value is None or (number and isfinite(value) and value >= 0)
        return "" if valid else "must be a price per million tokens, 0 or more"
    checks = {
        "url": (is_url, "must be an http or https address without a user name, ? and #"),
        "key_variable": (
            lambda v: v == "" or bool(VARIABLE.fullmatch(v)),
            "must be the name of an environment variable, such as HOSTED_API_KEY",
        ),
        "currency": (lambda v: 1 <= len(v) <= 8, "must be a currency such as USD"),
        "max_tokens_name": (
            lambda v: v in MAX_TOKENS_NAMES,
            f"must be {' or '.join(MAX_TOKENS_NAMES)}",
        ),
    }
    if setting in checks:
        is_valid, sentence = checks[setting]
        return "" if isinstance(value, str) and is_valid(value) else sentence
    if setting == "models":
        valid = isinstance(value, list | tuple) and all(
            isinstance(item, str) and MODEL_NAME.fullmatch(item) for item in value
        )
        return "" if valid else "must be a list of model names"
    return "" if isinstance(value, bool) else "must be true or false"


def is_url(value: str) -> bool:
    """Return whether a text is an http or https address without user name, query and fragment."""
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    printable = value.isascii() and value.isprintable() and " " not in value
    web = parts.scheme in ("http", "https") and bool(parts.hostname)
    return web and port_is_valid and plain and printable and "?" not in value and "#" not in value
