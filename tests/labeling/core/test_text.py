import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.core.text import (
    CONTAINERS,
    HIDDEN,
    MARKDOWN_LIMIT,
    SUSPECT,
    TAGS,
    render,
    shortened,
    storable,
    visible,
)
from labeling.models import Prompt, Response

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)><a xlink:href='javascript:alert(1)'>x</a></svg>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<style>body{display:none}</style><link rel=stylesheet href=//evil.example/x>",
    "<form action=/logout><button>Submit</button></form><input autofocus onfocus=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox)",
    '[x](http://ok.example "onmouseover=alert(1) \\" x=\\"")',
    "[x](/logout) [y](//evil.example/) [z](?delete=1) [w](#top)",
    "![x](https://evil.example/pixel.gif)",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    "![\"><script>alert(1)</script>](https://evil.example/\"><script>)",
    "<https://evil.example/\"onclick=alert(1)>",
    "[r]: javascript:alert(1)\n\n[r]",
    "```html\n</code></pre><script>alert(1)</script>\n```",
    "```x\" onclick=\"alert(1)\ncode\n```",
    "| a | <b onclick=x> |\n|---|---|\n| <script> | [x](javascript:x) |",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62;",
    "<!-- --><!--><script>alert(1)</script>",
    "<math><mtext></mtext><mglyph><style><img src onerror=alert(1)></style></mglyph></math>",
    "\u202egnp.exe \u2066hidden\u2069 zero\u200bwidth \U000e0041\U000e0042",
    "\x00\x01\x1b[31mred\x1b[0m \ud800 \ufeff",
    "</div></body></html><h1>Signed out. Enter your password</h1>",
    "{{ 7*7 }} {% load x %} ${7*7} <%= x %>",
]  # fmt: skip


class Page(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def assert_inert(html: str) -> None:
    for tag, attributes in Page(html).tags:
        assert tag in TAGS
        assert attributes.keys() <= {"href", "rel", "target", "dir", "start", "tabindex", "value"}
        if tag == "a":
            assert attributes["rel"] == "noopener nofollow ugc"
            address = attributes.get("href", "https:")
            assert address.startswith(("http:", "https:", "mailto:"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_rendered_inert(text):
    assert_inert(render(text))


@given(st.text(alphabet=st.sampled_from("<>\"'&()[]!`*_#|-\n\t :/=ax1\u202e\u200b"), max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_text_is_rendered_inert(text):
    assert_inert(render(text))


def test_html_is_shown_as_text():
    assert "<script>alert(1)</script>" in Page(render("<script>alert(1)</script>")).text


def test_common_markdown_is_rendered():
    html = render(
        "# Title\n\n**bold** ~~old~~\n\n1. one\n2. two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx = 1\n```"
    )
    for part in ("<h3", "<strong>bold</strong>", "<s>old</s>", "<ol", "<td", "<pre"):
        assert part in html
    assert "<h1" not in html


def test_single_line_breaks_are_rendered_unless_the_text_is_hard_wrapped():
    assert "<br>" in render("one\ntwo")
    assert "<br>" not in render("one\ntwo", line_breaks=False)


def test_an_image_is_named_and_not_loaded():
    html = render("![a cat](https://evil.example/cat.gif)")
    assert "<img" not in html
    assert "[image: a cat]" in html and 'href="https://evil.example/cat.gif"' in html


def test_the_address_of_a_link_is_shown():
    assert "(https://evil.example/)" in Page(render("[your bank](https://evil.example/)")).text
    assert Page(render("<https://ok.example/>")).text.count("ok.example") == 1


def test_links_into_the_product_are_removed():
    assert "href" not in render("[sign out](/logout/) and [x](//evil.example)")


def test_invisible_characters_are_written_out():
    assert visible("a\u202eb\u200bc\U000e0041") == "a⟦U+202E⟧b⟦U+200B⟧c⟦U+E0041⟧"
    assert "\u202e" not in render("`\u202e`")


def test_joiners_of_scripts_and_emoji_are_not_removed():
    family, persian = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "می\u200cخواهم"
    assert visible(family) == family and visible(persian) == persian
    assert visible("pass\u200dword") == "pass⟦U+200D⟧word"


def test_each_block_has_its_own_text_direction():
    assert '<p dir="auto">' in render("שלום")


def test_characters_that_the_database_cannot_store_are_replaced():
    assert storable("a\x00b\ud800c") == "a\ufffdb\ufffdc"
    assert storable("naïve 🙂") == "naïve 🙂"


@pytest.mark.parametrize(
    "text",
    [
        "[" * MARKDOWN_LIMIT,
        "![a](" * (MARKDOWN_LIMIT // 5),
        "> " * (MARKDOWN_LIMIT // 2),
        "*a **a " * (MARKDOWN_LIMIT // 7),
        "|a" * 4000 + "\n" + "|-" * 4000 + "\n" + "|a\n" * 4000,
        "[a](b) " * (MARKDOWN_LIMIT // 7),
        "x" * 5_000_000,
        "<a " * 1_000_000,
    ],
    ids=["brackets", "images", "quotes", "stars", "table", "links", "a megabyte line", "tags"],
)
def test_rendering_time_is_bounded(text):
    began = time.process_time()
    render(text)
    assert time.process_time() - began < 2


def test_a_table_of_many_rows_is_rendered():
    html = render("| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 1000)
    assert html.count("<tr>") == 1001


def test_a_huge_text_is_shown_verbatim_with_the_number_of_omitted_characters():
    html = render("**x** " * 400_000)
    assert "<strong>" not in html and "400,000 more characters" in html


def test_text_is_shortened_to_one_line():
    assert shortened("a\n\n b") == "a b"
    assert len(shortened("x" * 1000, 50)) == 50


def test_lists_quotes_and_tables_follow_the_direction_of_their_first_letter():
    def directions(markdown):
        return [a.get("dir") for tag, a in Page(render(markdown)).tags if tag in CONTAINERS]

    assert directions("- שלום\n- two") == ["rtl"]
    assert directions("- 1. one\n\n> \u0661 مرحبا\n\n| a |\n|---|\n| ש |") == [
        "ltr",
        "ltr",
        "rtl",
        "ltr",
    ]
    assert directions("> - 123") == [None, None]
    assert directions("> - שלום\n>   > English") == ["rtl", "rtl", "ltr"]


def test_a_huge_text_is_split_into_blocks_without_losing_characters():
    for text in ("word " * 10_000, "x" * 50_000, "line\n" * 9_000, "a\n" + "b" * 60_000):
        page = Page(render(text))
        blocks = [tag for tag, _ in page.tags]
        assert set(blocks) == {"samp"} and len(blocks) <= len(text) // 1500
        assert page.text == text


def test_stacked_accents_are_counted():
    assert visible("e\u0301") == "e\u0301"
    assert visible("Z" + "\u0301" * 50) == "Z" + "\u0301" * 6 + "⟦44 more accents⟧"


def test_direction_marks_are_shown_in_ascii_and_kept_next_to_letters_that_need_them():
    assert visible("1\u200f2") == "1⟦U+200F⟧2"
    assert visible("שלום\u200f!") == "שלום\u200f!"


@pytest.mark.slow
@pytest.mark.parametrize("context", ["%s", "a%sa", "ä%sä", "\u200d%s", "%s\ufe0f"])
def test_the_fast_search_finds_every_hidden_character(context):
    """`visible` skips the slow search of texts without a suspect."""
    missed = [
        hex(code)
        for code in range(0x110000)
        if HIDDEN.search(text := context % chr(code)) and not SUSPECT.search(text)
    ]
    assert missed == []


def test_the_names_of_prompts_and_responses_show_that_they_are_cut():
    long, short = "word " * 30, "word " * 10
    for text, cut in ((long, True), (short, False)):
        for row in (Prompt(messages=[{"role": "user", "content": text}]), Response(text=text)):
            assert str(row).endswith("…") is cut and len(str(row)) <= 80
