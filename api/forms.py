"""Use of the pages' forms by the API, so that both refuse the same values with the same sentences."""

from typing import Any

from django import forms

from accounts.api import Problem


def check(form: forms.BaseForm, *, at: str = "") -> None:
    """Raise Problem with the errors of the form, if it has any. `at` is the path of its object."""
    if form.is_valid():
        return
    raise refused(form, at=at)


def refused(form: forms.BaseForm, *, at: str = "") -> Problem:
    errors = [
        {"at": _path(at, name), "what": str(text)}
        for name, texts in form.errors.items()
        for text in texts
    ]
    return invalid(errors)


def invalid(errors: list[dict[str, str]]) -> Problem:
    """Return the Problem for errors, each with the path of a field and a sentence."""
    first = f"{errors[0]['at']}: {errors[0]['what']}" if errors else ""
    return Problem(422, f"The request is not valid. {first}".strip(), errors=errors)


def refuse_unknown(form: forms.BaseForm, sent: dict[str, Any], *, at: str = "") -> None:
    """Raise Problem for names that the form does not have, instead of ignoring them."""
    unknown = sorted(sent.keys() - form.fields.keys())
    if unknown:
        known = ", ".join(form.fields) or "none"
        text = f"There is no such field. The fields: {known}."
        raise invalid([{"at": _path(at, name), "what": text} for name in unknown])


def _path(at: str, name: str) -> str:
    name = "" if name == "__all__" else name
    return ".".join(filter(None, (at, name))) or "body"
