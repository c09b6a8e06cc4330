from django import template
from django.conf import settings
from django.template.loader_tags import BLOCK_CONTEXT_KEY
from django.utils import translation

from config.web.language import catalog_url

register = template.Library()


class MainNode(template.Node):
    """The body of a page, which is rendered in English unless the page is translated.

    The block "language" in base.html marks a page as English, and translated pages override it with an
    empty block. On an English page, dates, numbers and form errors must also be in English.
    """

    def __init__(self, nodes: template.NodeList):
        self.nodelist = nodes

    def render(self, context: template.Context) -> str:
        block = context.render_context[BLOCK_CONTEXT_KEY].get_block("language")
        if not block.nodelist.render(context).strip():
            return self.nodelist.render(context)
        with translation.override("en"):
            return self.nodelist.render(context)


@register.tag
def main(parser: template.base.Parser, token: template.base.Token) -> MainNode:
    nodes = parser.parse(("endmain",))
    parser.delete_first_token()
    return MainNode(nodes)


@register.simple_tag
def words_url() -> str:
    """Return the URL of the scripts' translations into the language of this page."""
    return catalog_url()


@register.simple_tag
def other_languages() -> list[tuple[str, str]]:
    """Return the code of each other language, and the language's own name for itself."""
    current = translation.get_language()
    return [(code, name) for code, name in settings.LANGUAGES if code != current]
