"""Figures with their labels and explanations from the glossary."""

import re
from typing import Any

from django import template

from formatting import glossary

register = template.Library()


@register.inclusion_tag("parts/term.html")
def term(name: str, section: str = "", label: str = "") -> dict[str, Any]:
    """Show the label of a figure, with its explanation on hover and focus.

    If a page shows a figure twice, `section` must differ, because it is part of an id. `label` replaces
    the label of the glossary.
    """
    entry = glossary.term_of(name)
    identifier = re.sub(r"[^a-z0-9]+", "-", f"{section}-{name}".lower()).strip("-")
    return {
        "label": label or glossary.label_of(name),
        "explanation": entry.explanation if entry else "",
        "id": f"term-{identifier}",
    }


@register.inclusion_tag("parts/figure.html")
def figure(
    name: str, value: Any, interval: str = "", section: str = "", label: str = ""
) -> dict[str, Any]:
    """Show a figure: its label with the explanation, its value, and its interval if there is one."""
    return {"name": name, "value": value, "interval": interval, "section": section, "label": label}


@register.simple_tag
def terms() -> dict[str, list[str]]:
    """Return the label and the explanation of each figure, for scripts."""
    entries = {
        **glossary.GLOSSARY,
        **{a: glossary.GLOSSARY[n] for a, n in glossary.ALIASES.items()},
    }
    return {name: [entry.label, entry.explanation] for name, entry in entries.items()}
