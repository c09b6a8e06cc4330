from django import template

from labeling.core import text

register = template.Library()


@register.filter
def seen(value: object, limit: int = 300) -> str:
    """Return untrusted text as one line, with invisible characters written out."""
    return text.shortened(str(value), limit)


@register.filter
def visible(value: object) -> str:
    """Return untrusted text with its line breaks, and with invisible characters written out."""
    return text.visible(str(value))
