"""Make untrusted text safe to store and to show. No other module marks text as safe.

Text from models and reviewers may attack the page or mislead the reader, for example with markup, links
under a false name, tracking images, direction overrides or zero-width characters. Markdown is rendered
without HTML, and the result is filtered by an allowlist. The Content-Security-Policy is an additional
protection.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from html import escape

import nh3
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from labeling.core.markdown import hides, make_parser

MARKDOWN_LIMIT = 30_000
"""Texts with more characters are shown verbatim, not as Markdown, which limits the rendering time."""

SHOWN_LIMIT = 2_000_000

BLOCK = 4_000
"""Characters per block of a long text. Browsers lay out only the visible blocks."""

TABLE_LIMIT = 10_000
"""Maximum number of table cells. Short rows are padded, so even a small text can have a huge table."""

BLOCKS = {"p", "h3", "h4", "h5", "h6", "li", "td", "th"}
CONTAINERS = {"ul", "ol", "blockquote", "table"}
TAGS = BLOCKS | CONTAINERS | {"a", "br", "code", "em", "hr", "pre", "s", "samp", "strong"}
TAGS |= {"i", "small", "thead", "tbody", "tr"}

HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters except tab, newline, return
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2028\u2029\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\u202a-\u202e\u2066-\u2069"  # direction overrides, embeddings and isolates
    "\U000e0000-\U000e01ef\ufff9-\ufffb]"  # tags and supplementary variation selectors
    "|(?<=[\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?=[\x00-\x7f]|$)"
    "|(?<=[\u200c\u200d\ufe00-\ufe0f])[\u200c\u200d\ufe00-\ufe0f](?![\u2600-\u27bf\U0001f000-\U0001faff])"
    "|(?<=[\x00-\x22\x24-\x29\x2b-\x2f\x3a-\x7f])[\ufe00-\ufe0f]"  # not in keycaps: 1\ufe0f\u20e3
    "|(?<=[\x00-\x7f])[\u061c\u200e\u200f](?=[\x00-\x7f])"  # direction marks between ASCII characters
)
SUSPECT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e01ef]"
)
"""Matches every character that HIDDEN can match, but 30 times faster. Most texts contain none."""
STACKED = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{6})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
LETTER = re.compile("\ue000([A-I])([A-I])\ue001")
"""Matches a letter of the page and the author's letter, between two private-use characters."""

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Replace characters that PostgreSQL cannot store (NUL, lone surrogates) with U+FFFD."""
    return UNSTORABLE.sub("\ufffd", text)


def visible(text: str) -> str:
    """Return the text with invisible and direction-changing characters written out, as in ⟦U+202E⟧.

    Joiners between non-ASCII letters are kept, because emoji and several scripts need them. A letter
    keeps at most six accents, because more would cover the lines above.
    """
    text_with_codes = text
    if SUSPECT.search(text):
        text_with_codes = HIDDEN.sub(lambda match: f"⟦U+{ord(match[0]):04X}⟧", text)
    if text_with_codes.isascii():
        return text_with_codes
    return STACKED.sub(
        lambda match: f"{match[1]}⟦{len(match[0]) - 6} more accents⟧", text_with_codes
    )


def shortened(text: str, limit: int = 120) -> str:
    """Return one line of at most `limit` characters, for lists. The result is plain text, not HTML."""
    line = visible(" ".join(text[: limit * 4].split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def excerpt(text: str, limit: int = 120) -> str:
    """Return the text shortened for a list, or "(empty)" if it is blank."""
    return shortened(text, limit) if text.strip() else _("(empty)")


def render(markdown: str, *, line_breaks: bool = True) -> SafeString:
    """Return Markdown as safe HTML without scripts, images, styles or relative links.

    Headings start at h3. A newline becomes a line break, which suits text from models; pass
    `line_breaks=False` for hand-wrapped text. If Markdown would hide a character of the text, or the
    text is longer than MARKDOWN_LIMIT, it is shown verbatim.
    """
    if not markdown.strip():
        return _clean(f"<p><em>{escape(_('(empty)'))}</em></p>")
    text = _readable(markdown)
    if len(text) > MARKDOWN_LIMIT or _table_cells(text) > TABLE_LIMIT:
        return _clean(_verbatim(text) + _left_out(markdown))
    html = _parser.render(text, {"breaks": line_breaks})
    return _clean(_verbatim(text) if hides(text, html) else html)


NOTHING = SafeString()


def exact(markdown: str) -> SafeString | None:
    """Return the text exactly as written, with whitespace at the ends of lines marked.

    Return None for a long text, which `render` already shows verbatim.
    """
    if not markdown:
        return render(markdown)
    text = _readable(markdown)
    if len(text) > MARKDOWN_LIMIT:
        return None
    marked = mark_safe(BLANKS.sub(lambda match: f"<i>{match[0]}</i>", escape(text)))  # noqa: S308
    return format_html('<samp dir="auto">{}</samp>', marked)


BLANKS = re.compile(r"[^\S\n]+$", re.MULTILINE)


def _readable(text: str) -> str:
    return visible(storable(text[:SHOWN_LIMIT]).replace("\r\n", "\n").replace("\r", "\n"))


def _verbatim(text: str) -> str:
    return "".join(f"<samp>{escape(block)}</samp>" for block in _blocks(text))


def _left_out(text: str) -> str:
    more = len(text) - SHOWN_LIMIT
    return f"<p>… {more:,} more characters are not shown.</p>" if more > 0 else ""


def _clean(html: str) -> SafeString:
    return mark_safe(_cleaner.clean(html))  # noqa: S308 - filtered by the allowlist


def render_lettered(markdown: str, letters: Mapping[int, tuple[str, str]]) -> SafeString:
    """Render Markdown, with some letters replaced and marked.

    `letters` maps a position in the text to the letter to show and the author's letter.
    """
    plain = markdown.replace("\ue000", "\ufffd").replace("\ue001", "\ufffd")
    pieces = [
        f"\ue000{''.join(letters[at])}\ue001" if at in letters else character
        for at, character in enumerate(plain)
    ]
    html = LETTER.sub(_abbreviation, str(render("".join(pieces))))
    return mark_safe(html)  # noqa: S308 - each match is two letters from A to I


def _abbreviation(match: re.Match[str]) -> str:
    title = _("written as %(letter)s") % {"letter": match[2]}
    return f'<abbr class="letter" title="{escape(title)}">{match[1]}</abbr>'


def _blocks(text: str) -> Iterator[str]:
    """Yield the text in blocks, which end at the end of a line or word if possible."""
    start = 0
    while start < len(text):
        end = start + BLOCK
        if end < len(text):
            at = max(text.rfind("\n", start, end), text.rfind(" ", start + BLOCK // 2, end))
            end = at + 1 if at > start else end
        yield text[start:end]
        start = end


def _table_cells(text: str) -> int:
    """Return an upper bound for the number of table cells."""
    rows = [line.count("|") for line in text.split("\n") if "|" in line]
    return len(rows) * max(rows, default=0)


def _direct_containers(state: StateCore) -> None:
    """Set the direction of each list, quotation and table according to its first letter.

    `dir="auto"` does not work for them, because it ignores descendants that have a `dir` of their own.
    """
    undirected: list[Token] = []
    for token in state.tokens:
        if token.tag in CONTAINERS and token.nesting == 1:
            undirected.append(token)
        elif token.type == "inline" and undirected and (direction := _direction(token.content)):
            for container in undirected:
                container.attrSet("dir", direction)
            undirected = []


def _direction(text: str) -> str | None:
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in {"L", "R", "AL"}:
            return "ltr" if kind == "L" else "rtl"
    return None


_parser = make_parser()
_parser.core.ruler.push("direct_containers", _direct_containers)

_cleaner = nh3.Cleaner(
    tags=TAGS,
    attributes={
        "*": set(),
        "a": {"href"},
        "ol": {"start", "dir"},
        "li": {"value"},
        "ul": {"dir"},
        "blockquote": {"dir"},
        "table": {"dir"},
    },
    set_tag_attribute_values={
        **{tag: {"dir": "auto"} for tag in BLOCKS},
        "pre": {"dir": "auto", "tabindex": "0"},
        "table": {"tabindex": "0"},
        "code": {"dir": "auto"},
        "samp": {"dir": "auto"},
        "a": {"target": "_blank"},
    },
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener nofollow ugc",
    strip_comments=True,
)
