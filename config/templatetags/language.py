from django import template
from django.conf import settings
from django.template.loader_tags import BLOCK_CONTEXT_KEY
from django.utils import translation

from config.web.language import catalog_url

register = template.Library()


class MainNode(template.Node):
    """The body of a page, in English unless the page says that it is translated.

    A page without translations is marked as English by the block "language" of base.html, which
    translated pages empty. Its dates, numbers and form errors have to be English too.
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
    """Where the scripts' words are, in the language of this page."""
    return catalog_url()


@register.simple_tag
def other_languages() -> list[tuple[str, str]]:
    """The languages this page could be in too: code and name, in that language itself."""
    now = translation.get_language()
    return [(code, name) for code, name in settings.LANGUAGES if code != now]
