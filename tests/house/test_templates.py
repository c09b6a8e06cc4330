"""Tests of rules that every template keeps."""

import re

from config.env import BASE_DIR

WRAP = re.compile(r'<div class="table-wrap"[^>]*>')


def test_every_table_that_scrolls_can_be_scrolled_with_the_keyboard() -> None:
    wraps = [
        (path.name, tag)
        for path in (BASE_DIR / "templates").rglob("*.html")
        for tag in WRAP.findall(path.read_text())
    ]
    assert len(wraps) > 20
    assert [wrap for wrap in wraps if 'tabindex="0"' not in wrap[1]] == []
    assert [wrap for wrap in wraps if "aria-label" not in wrap[1]] == []
