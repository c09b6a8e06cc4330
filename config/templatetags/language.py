from django import template
from django.conf import settings
from django.utils import translation

from config.language import catalog_url

register = template.Library()


@register.simple_tag
def words_url() -> str:
    """Where the scripts' words are, in the language of this page."""
    return catalog_url()


@register.simple_tag
def other_languages() -> list[tuple[str, str]]:
    """The languages this page could be in too: code and name, in that language itself."""
    now = translation.get_language()
    return [(code, name) for code, name in settings.LANGUAGES if code != now]
