"""A Markdown parser that hides none of a model's text. labeling.core.text makes its output safe.

CommonMark drops backslashes, entities, link definitions, link titles and addresses, info strings and list
numbers. Reviewers must see all of these, so this parser keeps them visible. It applies formatting (bold,
headings, bullets, tables) only where the meaning is clear: the asterisks in 2*3*4, f(*args) and /*.py
remain text. Formulas between LaTeX delimiters are left unchanged.
"""

import re
import string
from collections.abc import Callable, MutableMapping, Sequence
from html import escape, unescape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock, blockquote, heading, list_block, table
from markdown_it.rules_inline import StateInline, autolink, image, link
from markdown_it.rules_inline.emphasis import tokenize as emphasis
from markdown_it.rules_inline.strikethrough import tokenize as strikethrough
from markdown_it.token import Token

PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")

Env = MutableMapping[str, Any]


# --- inline --------------------------------------------------------------------------------------

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
)
"""Matches scripts that put no spaces between words, in which emphasis may begin or end inside a word."""

BEFORE = {"", " ", "\n", *"([{\"'“‘«„¿¡-–—*_~"}
AFTER = {"", " ", "\n", *")]}\"'”’»,.;:!?…-–—*_~"}
INSIDE = set("([{\"'“‘«„¿¡#$@&`*_~+-)]}”’».,!?:;%…")


def _joins(character: str, allowed: set[str]) -> bool:
    """Return whether emphasis may start after this character, or end before it."""
    if character in allowed or character.isspace():
        return True
    if character.isascii():
        return False
    return bool(UNSPACED.match(character)) or not character.isalnum()


def _is_content(inner: str, outer: str) -> bool:
    """Return whether emphasized text may begin or end with `inner` when `outer` is next to it outside.

    It may begin or end with punctuation only next to whitespace or another delimiter.
    """
    if inner.isalnum() or not inner.isascii():
        return True
    return inner in INSIDE and (not outer or outer.isspace() or outer in "*_~")


def _is_name(src: str, start: int, end: int) -> bool:
    """Return whether these delimiters are part of a name such as _x_ or __init__, not emphasis."""
    run = src[start:end]
    if "_" not in run:
        return False
    close = src.find(run, end)
    words = src[end:close]
    ends = (
        close > 0
        and not words[-1:].isspace()
        and src[close + len(run) : close + len(run) + 1] != "_"
    )
    return not ends or not any(map(str.isspace, words))


def _only_at_words(
    rule: Callable[[StateInline, bool], bool],
) -> Callable[[StateInline, bool], bool]:
    """Restrict the rule for a delimiter, so that emphasis begins and ends only at the edges of words."""

    def tokenize(state: StateInline, silent: bool) -> bool:
        start, count = state.pos, len(state.delimiters)
        if not rule(state, silent):
            return False
        before = state.src[start - 1] if start else ""
        after = state.src[state.pos : state.pos + 1]
        opens = _joins(before, BEFORE) and _is_content(after, before)
        opens = opens and not _is_name(state.src, start, state.pos)
        closes = _joins(after, AFTER) and _is_content(before, after)
        for delimiter in state.delimiters[count:]:
            delimiter.open = delimiter.open and opens
            delimiter.close = delimiter.close and closes
        return True

    return tokenize


def _escape(state: StateInline, silent: bool) -> bool:
    """Show a backslash and the punctuation after it, which then does not act as markup."""
    following = state.src[state.pos + 1 : state.pos + 2]
    if state.src[state.pos] != "\\" or following not in PUNCTUATION:
        return False
    if not silent:
        state.pending += "\\" + following
    state.pos += 2
    return True


INLINE_FORMULAS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}


def _formula_end(src: str, start: int) -> int:
    """Return the index after the formula that starts at `start`, or -1 if none starts there."""
    if close := INLINE_FORMULAS.get(src[start : start + 2]):
        end = src.find(close, start + 2)
        return end + 2 if end >= 0 else -1
    if src[start] != "$" or src[start + 1 : start + 2].isspace():
        return -1
    end = src.find("$", start + 1)
    if end <= start + 1 or src[end - 1].isspace() or src[end + 1 : end + 2].isdigit():
        return -1  # two amounts of money, not a formula
    return end + 1


def _formula(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "\\$":
        return False
    end = _formula_end(state.src, state.pos)
    if not 0 < end <= state.posMax:
        return False
    if not silent:
        state.push("formula", "", 0).content = state.src[state.pos : end]
    state.pos = end
    return True


def _with_address(
    rule: Callable[[StateInline, bool], bool], label: int, *, nested: bool
) -> Callable[[StateInline, bool], bool]:
    """Extend the rule for links or images so that it keeps the address and title as written."""

    def tokenize(state: StateInline, silent: bool) -> bool:
        start = state.pos
        if not rule(state, silent):
            return False
        if not silent:
            end = state.md.helpers.parseLinkLabel(state, start + label, nested)
            state.tokens[-1].meta = {"tail": state.src[end + 1 : state.pos]}
        return True

    return tokenize


def _autolink(state: StateInline, silent: bool) -> bool:
    start = state.pos
    if not autolink(state, silent):
        return False
    if not silent:
        state.tokens[-2].content = state.src[start : state.pos]
    return True


# --- blocks --------------------------------------------------------------------------------------

FORMULA_LINES = 200
FORMULA = re.compile(r"\\\[|\$\$|\\begin\{([A-Za-z]+\*?)\}")
ODD_NUMBER = re.compile(r"\d{4}|0\d")
"""Matches a year, or a number with a leading zero, which a list would not show as written."""


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _formula_block(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Parse a formula that starts and ends with a delimiter and may span several lines."""
    opening = FORMULA.match(_line(state, start_line))
    if opening is None or state.is_code_block(start_line):
        return False
    close = f"\\end{{{opening[1]}}}" if opening[1] else {"\\[": "\\]", "$$": "$$"}[opening[0]]
    for line in range(start_line, min(end_line, start_line + FORMULA_LINES)):
        text = _line(state, line)[opening.end() if line == start_line else 0 :]
        if text and state.sCount[line] < state.blkIndent:
            return False
        _, closing, rest = text.partition(close)
        if closing:
            break
    else:
        return False
    if rest.strip() not in {"", ".", ",", ";", ":"}:
        return False
    if not silent:
        token = state.push("formula_block", "", 0)
        token.content = state.getLines(start_line, line + 1, state.blkIndent, False)
        token.map = [start_line, line + 1]
        state.line = line + 1
    return True


def _heading(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Parse a heading that is not empty, and keep closing hash signs, as in "# C #"."""
    text = _line(state, start_line).lstrip("#").strip()
    if not text or not heading(state, start_line, end_line, silent):
        return False
    if not silent:
        state.tokens[-2].content = text
    return True


def _list(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    if ODD_NUMBER.match(_line(state, start_line)):
        return False
    return list_block(state, start_line, end_line, silent)


def _blockquote(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Parse a quotation, but not the >>> prompt of a Python console."""
    if _line(state, start_line).startswith(">>>"):
        return False
    return blockquote(state, start_line, end_line, silent)


def _cells(line: str) -> list[str]:
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())]
    return cells[cells[0] == "" : len(cells) - (cells[-1] == "" and len(cells) > 1)]


def _table(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """Parse a table, unless a row has more cells than the header. The extra cells would be dropped."""
    before = len(state.tokens)
    if not table(state, start_line, end_line, silent):
        return False
    if silent:
        return True
    columns = len(_cells(_line(state, start_line)))
    body = range(start_line + 2, state.line)
    if any(len(_cells(_line(state, line))) > columns for line in body):
        del state.tokens[before:]
        state.line = start_line
        return False
    cells: list[str] = []
    for token in state.tokens[before:]:
        if token.type == "tr_open" and token.map:
            cells = _cells(_line(state, token.map[0]))
        elif token.type == "inline":
            token.content = cells.pop(0) if cells else ""
    return True


# --- rendering -----------------------------------------------------------------------------------


class _Renderer(RendererHTML):
    def image(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        """Render a link instead of the image, because an image would send a request to another server."""
        token = tokens[idx]
        name = f"[image: {token.content or 'no description'}]"
        href = str(token.attrs["src"])
        return f'<a href="{escape(href)}">{escape(name)}</a>{_address(token, href)}'

    def hardbreak(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        return "<br>\n"

    def softbreak(self, tokens: Sequence[Token], idx: int, options: object, env: Env) -> str:
        return "<br>\n" if env.get("breaks") else "\n"

    def heading_open(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        return f"<{_below_the_page(tokens[idx].tag)}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        return f"</{_below_the_page(tokens[idx].tag)}>\n"

    def list_item_open(
        self, tokens: Sequence[Token], idx: int, options: object, env: object
    ) -> str:
        """Render the number as written, so that 1, 3, 5 does not become 1, 2, 3."""
        number = tokens[idx].info
        return f'<li value="{int(number)}">' if number.isdigit() else "<li>"

    def fence(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        info = tokens[idx].info.strip()
        label = f"<p><small>{escape(info)}</small></p>\n" if info else ""
        return f"{label}<pre><code>{escape(tokens[idx].content)}</code></pre>\n"

    def formula(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        return escape(tokens[idx].content).replace("\n", "<br>\n")

    def formula_block(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        return f"<p>{self.formula(tokens, idx, options, env)}</p>\n"

    def link_close(self, tokens: Sequence[Token], idx: int, options: object, env: object) -> str:
        opening = next(i for i in range(idx, -1, -1) if tokens[i].type == "link_open")
        return "</a>" + _address(tokens[idx], str(tokens[opening].attrs["href"]))


def _address(token: Token, href: str) -> str:
    """Return a link's address as written, followed by the ASCII form of an internationalised host."""
    tail = str(token.meta.get("tail", ""))
    written = f" {escape(tail)}" if tail else ""
    return f"{written} → {escape(href)}" if "xn--" in href and "xn--" not in tail else written


def _below_the_page(tag: str) -> str:
    """Return the heading tag two levels further down, because the page itself uses h1 and h2."""
    return f"h{min(6, int(tag[1]) + 2)}"


def make_parser() -> MarkdownIt:
    options = {"html": False, "linkify": False, "maxNesting": 50}
    parser = MarkdownIt("commonmark", options, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.disable(["entity", "reference", "lheading"])
    inline, block = parser.inline.ruler, parser.block.ruler
    inline.at("escape", _escape)
    inline.before("escape", "formula", _formula)
    inline.before(
        "newline", "early_emphasis", _only_at_words(emphasis)
    )  # first, because it matches most often
    inline.disable("emphasis")
    inline.at("strikethrough", _only_at_words(strikethrough))
    inline.at("link", _with_address(link, 0, nested=True))
    inline.at("image", _with_address(image, 1, nested=False))
    inline.at("autolink", _autolink)
    ends: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    block.before("table", "formula_block", _formula_block, ends)
    block.at("table", _table, {"alt": ["paragraph", "reference"]})
    block.at("heading", _heading, {"alt": ["paragraph", "reference", "blockquote"]})
    block.at("list", _list, {"alt": ["paragraph", "reference", "blockquote"]})
    block.at("blockquote", _blockquote, ends)
    return parser


# --- the check -----------------------------------------------------------------------------------

_TAG = re.compile("<[^>]*>")
_NUMBER = re.compile(r'<li value="(\d+)">')
_UNCOUNTED = str.maketrans("", "", string.whitespace + "".join(sorted(PUNCTUATION)))


def text_of(html: str) -> str:
    """Return the visible text of the parser's output, including list numbers."""
    return unescape(_TAG.sub("", _NUMBER.sub(r" \1 ", html)))


def hides(source: str, html: str) -> bool:
    """Return whether the output hides a character of the source.

    Whitespace and ASCII punctuation are ignored, because they may have become formatting, unless the
    output shows nothing at all.
    """
    visible = text_of(html)
    if not visible.strip():
        return True
    if source.translate(_UNCOUNTED) == visible.translate(
        _UNCOUNTED
    ):  # the usual case, and a fast check
        return False
    rest = iter(visible)
    counted = (c for c in source if not c.isspace() and c not in PUNCTUATION)
    return not all(character in rest for character in counted)
