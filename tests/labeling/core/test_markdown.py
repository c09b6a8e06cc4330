"""Tests that no text of a model is hidden: a character is shown, or it has become a format that is."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labeling.core.markdown import PUNCTUATION
from labeling.core.text import MARKDOWN_LIMIT, exact, excerpt, render, visible
from tests.labeling.core.test_text import HOSTILE, Page, assert_inert


def seen(html: str) -> str:
    """Return the text of a page with the numbers of its lists."""
    return Page(re.sub(r'<li value="(\d+)"', r"\1. <li", html)).text


def squeezed(text: str) -> str:
    return "".join(text.split())


LITERAL = [
    r"The root is \(x\), and \[y = \frac{a_1 * b_2 * c}{d}\] follows.",
    "so $x_1 * y_1$ and $$a*b*c$$ hold, for $5 and *not* $6".replace("*not*", "not"),
    "\\[\na_1 * b\n- c * d\n# e\n\\]",
    "$$\nx = \\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}\n= y\n$$",
    "\\begin{align}\na &= b \\\\\n- c &= d\n\\end{align}",
    "2*3*4 = 24 and 2**3**2, (a)*(b)*(c), (a)*b*(c), x = (2)*(3)*4",
    "snake_case_names, __init__.py, _private, __dunder__ and _single_",
    "f(*args, **kwargs) and f(**options)",
    "**/*.py and *.js, /*comment*/ and /**doc**/",
    "Type \"*\" and \"*\" or '_' and '_'.",
    "a~~b~~c ~/x and ~y~",
    "[1]: https://ok.example/paper",
    "[note]: <https://ok.example/> 'A title'\n\nSee [note] and [text][note].",
    "&copy; &amp; &lt;b&gt; &#42; &nbsp;",
    r"\*not bold\* \# no \[x\] \\ C:\new\table \!",
    "<!-- hidden --> <b>bold</b> <br/> <![CDATA[x]]> <?php 1 ?>",
    "<think>\nlet me see\n</think>\nDone.",
    "a line that ends with a backslash\\\nand the next",
    "Title\n=====\n\nthen",
    "# C #\n\n#\n\n##",
    ">>> 2 + 2\n4",
    "1986. A great year.\n\n007. Bond.",
    "| a | b |\n|---|---|\n| 1 | 2 | 3 |",
    "<https://ok.example/a?b=c&d> <me@ok.example>",
    "####### seven",
    "#hashtag and # alone",
    "- [ ] open\n- [x] done".replace("- ", ""),
    "100%, 50°, ½, ™ → ∑ ≠ 🙂 日本語 العربية",
    "trailing \\",
    "---",
    "```",
    ">",
    "-",
    "**",
    "|",
    "1.",
]


@pytest.mark.parametrize("source", LITERAL)
def test_no_visible_character_is_lost(source):
    text = re.sub(r"^#+ ", "", source, flags=re.MULTILINE) if source.startswith("# C") else source
    assert squeezed(text) in squeezed(seen(render(source)))


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ('[x](https://ok.example/a "A title")', 'x(https://ok.example/a"Atitle")'),
        ("[x](</a b> 'y')", "x(</ab>'y')"),
        ("![a *cat*](https://ok.example/c.gif 'why')", "[image:a*cat*](https://ok.example/c.gif'why')"),
        ("[https://a.example](https://b.example)", "https://a.example(https://b.example)"),
        ("[](https://b.example)", "(https://b.example)"),
        ("[x](https://ok.example/" + "y" * 300 + ")", "y" * 300 + ")"),
        ('```python title="a.py"\nx = 1\n```', 'pythontitle="a.py"x=1'),
        ("~~~ js\n~~~", "js"),
        ("1. a\n1. b\n5. c", "1.a1.b5.c"),
        ("2) a\n4) b", "2.a4.b"),
        ("| a |\n|---|\n| x \\| y |", r"ax\|y"),
        ("> " * 80 + "deep", "deep"),
        ("- " * 80 + "deep", "deep"),
    ],
)  # fmt: skip
def test_text_in_markdown_attributes_is_shown(source, shown):
    assert shown in squeezed(seen(render(source)))


@pytest.mark.parametrize(
    ("source", "html"),
    [
        ("**bold** and *it*, _two words_.", "<strong>bold</strong> and <em>it</em>, <em>two words</em>"),
        ("**Note:** x (**y**) “*z*”—*w*", "<strong>Note:</strong> x (<strong>y</strong>) “<em>z</em>”—<em>w</em>"),
        ("***both***", "<em><strong>both</strong></em>"),
        ("这是**重点**内容。", "这是<strong>重点</strong>内容"),
        ("**“Quoted”** **$5** **`code`**", "<strong>“Quoted”</strong> <strong>$5</strong> <strong><code"),
        ("~~old~~ **a *b* c**", "<s>old</s> <strong>a <em>b</em> c</strong>"),
        ("# Title\n\n> quote\n\n- item", "<h3"),
        ("|a|b|\n|-|-|\n|1|2|", "<td"),
    ],
)  # fmt: skip
def test_ordinary_formats_are_still_rendered(source, html):
    assert html in render(source)


@given(st.text(st.sampled_from("ab1é重🙂*_~`#>-+.()[]!<&;\\$|:=\"' \n"), max_size=60))
@settings(max_examples=300, deadline=None)
@example("1. a\n007. b")
@example("*a*\n\n02) x\n03) y")
@example("> > - 1. x\n\n    y")
def test_every_letter_digit_and_symbol_is_shown_in_order(source):
    html = render(source)
    assert_inert(html)
    rest = iter(seen(html))
    characters = [c for c in visible(source) if not c.isspace() and c not in PUNCTUATION]
    assert all(character in rest for character in characters)
    assert seen(html).strip()


@pytest.mark.slow
@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
@example("a  \n\tb \n c\t")
@example("\ud800 \x00 \u202e")
def test_the_exact_text_is_the_source_character_by_character(source):
    html = exact(source)
    assert html is not None
    assert_inert(html)
    shown = visible(source.encode(errors="surrogatepass").decode(errors="replace"))
    if source and "\ud800" not in source and "\x00" not in source:
        expected = visible(source.replace("\r\n", "\n").replace("\r", "\n"))
        assert Page(html).text == expected
    assert shown or "(empty)" in html


def test_the_exact_text_marks_blanks_at_the_ends_of_lines():
    assert "one<i>  </i>\ntwo<i>\t</i>" in (exact("one  \ntwo\t") or "")


def test_a_long_text_is_already_shown_exactly():
    assert exact("x " * MARKDOWN_LIMIT) is None


@pytest.mark.parametrize("source", HOSTILE)
def test_the_exact_text_is_inert(source):
    assert_inert(exact(source) or "")


@pytest.mark.parametrize("source", ["", " ", "\n\t \r\n", "\u00a0\u3000"])
def test_an_empty_text_is_labelled_as_empty(source):
    assert Page(render(source)).text == "(empty)"
    assert excerpt(source) == "(empty)"


def test_zero_width_characters_are_always_shown():
    for hidden in (
        "é\u00adé",
        "а\u034fб",
        "x\ufe0f",
        "😀\ufe0e\ufe0f",
        "ب\u200d\u200dب",
        "é\u2065é",
    ):
        assert "⟦U+" in render(hidden), ascii(hidden)
    for needed in ("❤️‍🔥", "1️⃣", "👩‍👩‍👧‍👦", "🏃‍♂️‍➡️", "می‌خواهم"):
        assert "⟦" not in render(needed), ascii(needed)
