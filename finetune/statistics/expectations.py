"""The properties that an answer of a regression set must have. Needs only Python.

`contains`        texts that must all occur
`excludes`        texts that must not occur
`max_characters`  the largest number of characters
`json`            true if the answer must be valid JSON

The case of letters is ignored. Regular expressions are left out, because some of them run forever.
"""

import json
from collections.abc import Mapping
from typing import Any

TEXTS = ("contains", "excludes")
LONGEST_TEXT, MOST_TEXTS = 1_000, 20
LONGEST_ANSWER = 1_000_000


def problem_of(expect: Any) -> str:
    """Return why a value does not describe properties, as a clause, or "" if it does."""
    if not isinstance(expect, dict):
        return '"expect" must be an object such as {"contains": ["Paris"]}.'
    for name, value in expect.items():
        if name in TEXTS:
            if not isinstance(value, list) or not value or len(value) > MOST_TEXTS:
                return f'"{name}" must be a list of 1 to {MOST_TEXTS} texts.'
            if not all(isinstance(t, str) and 0 < len(t) <= LONGEST_TEXT for t in value):
                return f'a text of "{name}" must have 1 to {LONGEST_TEXT:,} characters.'
        elif name == "max_characters":
            if type(value) is not int or not 1 <= value <= LONGEST_ANSWER:
                return f'"max_characters" must be a number from 1 to {LONGEST_ANSWER:,}.'
        elif name == "json":
            if value is not True:
                return '"json" can only be true.'
        else:
            return f'"{name}" is not a property. Use contains, excludes, max_characters or json.'
    return ""


def is_met(expect: Mapping[str, Any], answer: str) -> bool:
    """Return whether an answer has all properties."""
    text = answer.casefold()
    return (
        all(part.casefold() in text for part in expect.get("contains", ()))
        and not any(part.casefold() in text for part in expect.get("excludes", ()))
        and len(answer) <= expect.get("max_characters", len(answer))
        and ("json" not in expect or _is_json(answer))
    )


def _is_json(answer: str) -> bool:
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return True


def value_of(candidate: bool, baseline: bool) -> float:
    """Return 1 if only the candidate's answer has the properties, 0 if only the baseline's, and ½ otherwise."""
    return 0.5 + 0.5 * (int(candidate) - int(baseline))


def in_words(expect: Mapping[str, Any]) -> str:
    """Return the properties as a clause, for a page."""
    parts = []
    for name, verb in (("contains", "contains"), ("excludes", "does not contain")):
        if expect.get(name):
            parts.append(f"{verb} " + ", ".join(f"“{text}”" for text in expect[name]))
    if "max_characters" in expect:
        parts.append(f"has at most {expect['max_characters']:,} characters")
    if "json" in expect:
        parts.append("is valid JSON")
    return "; ".join(parts)
