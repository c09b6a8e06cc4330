from django import template

from labeling.core import text

register = template.Library()


@register.filter
def seen(value: object, limit: int = 300) -> str:
    """One line of a stranger's text, what the eye cannot see written out. Escaped as usual."""
    return text.shortened(str(value), limit)


@register.filter
def visible(value: object) -> str:
    """Many lines of it, likewise."""
    return text.visible(str(value))
