"""Collect, merge and compile the messages of the pages and their translations.

    python -m tests.messages

updates locale/*/LC_MESSAGES/*.po from the source, compiles the .mo files, and lists untranslated
messages. It does not need GNU gettext.
"""

import re
import sys
from ast import literal_eval
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.utils.translation.template import templatize

ROOT = Path(__file__).parent.parent
LOCALE = ROOT / "locale"
LANGUAGES = ["de"]
SOURCES = {
    "django": ["templates/**/*.html", "*/templates/**/*.html", "[a-z]*/**/*.py"],
    "djangojs": ["static/js/**/*.js", "static/admin-guideline/*.js"],
}
NOT_OURS = {"tests", "benchmarks", "var", "build"}
PLAIN, PLURAL, CONTEXT, BOTH = None, (1, 2), ((1, "c"), 2), ((1, "c"), 2, 3)
KEYWORDS: dict[str, Any] = {
    name + lazy: shape
    for name, shape in {"_": PLAIN, "gettext": PLAIN, "gettext_noop": PLAIN, "ngettext": PLURAL}.items()
    for lazy in ("", "_lazy")
} | {
    name + lazy: shape
    for name, shape in {"pgettext": CONTEXT, "npgettext": BOTH}.items()
    for lazy in ("", "_lazy")
}  # fmt: skip

NO_DATE = datetime(2000, 1, 1, tzinfo=UTC)
"""A fixed date for compiled files, so that compiling is deterministic."""

Message = tuple[str, str | tuple[str, ...], str | None]
"""Location, id (with its plural) and context of a message."""

_STRING = r"""u?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_CALL = re.compile(rf"\b(n?p?gettext|_)\(({_STRING}(?:, *{_STRING})*)")


def messages(domain: str) -> Iterator[Message]:
    for path in sorted({path for glob in SOURCES[domain] for path in ROOT.glob(glob)}):
        if path.relative_to(ROOT).parts[0] not in NOT_OURS:
            location = str(path.relative_to(ROOT))
            result = _in_template(path) if path.suffix == ".html" else _in_script(path)
            yield from ((location, text, context) for text, context in result)


def _in_script(path: Path) -> Iterator[tuple[Any, str | None]]:
    method = "python" if path.suffix == ".py" else "javascript"
    for _, text, _, context in extract(method, BytesIO(path.read_bytes()), keywords=KEYWORDS):
        yield text, context


def _in_template(path: Path) -> Iterator[tuple[Any, str | None]]:
    """Yield the messages of a template, which Django converts to Python calls."""
    for name, arguments in _CALL.findall(templatize(path.read_text(), origin=str(path))):
        words = [literal_eval(word) for word in re.findall(_STRING, arguments)]
        context = words.pop(0) if "p" in name.removesuffix("gettext") else None
        yield (tuple(words) if len(words) > 1 else words[0]), context


def collected(domain: str, language: str) -> Catalog:
    catalog = Catalog(locale=language, domain=domain, project="Tiebreak", charset="utf-8")
    for location, text, context in messages(domain):
        catalog.add(text, locations=[(location, 0)], context=context)
    return catalog


def po_path(domain: str, language: str) -> Path:
    return LOCALE / language / "LC_MESSAGES" / f"{domain}.po"


def read(domain: str, language: str) -> Catalog:
    path = po_path(domain, language)
    if not path.exists():
        return Catalog(locale=language, domain=domain)
    with path.open("rb") as file:
        catalog = read_po(file, locale=language, domain=domain)
    catalog.creation_date = catalog.revision_date = NO_DATE
    return catalog


def compiled(catalog: Catalog) -> bytes:
    buffer = BytesIO()
    write_mo(buffer, catalog)
    return buffer.getvalue()


def untranslated(catalog: Catalog) -> list[str]:
    return [
        str(message.id)
        for message in catalog
        if message.id and (message.fuzzy or not all(texts(message.string)))
    ]


def texts(string: Any) -> tuple[str, ...]:
    return tuple(string) if isinstance(string, list | tuple) else (string or "",)


_DATES_AND_LINES = re.compile(
    rb'"(?:POT-|PO-|Project-Id|Report-|Last-|Language-Team|Generated).*\n|(?<=\w):0(?=\s)'
)


def update(domain: str, language: str) -> Catalog:
    catalog = collected(domain, language)
    old = read(domain, language)
    for message in catalog:
        known = old.get(message.id, message.context) if message.id else None
        if known is not None and isinstance(known.id, tuple) == isinstance(message.id, tuple):
            message.string = known.string
    write(catalog, domain, language)
    return read(domain, language)


def write(catalog: Catalog, domain: str, language: str) -> None:
    """Write a catalogue without dates and line numbers, so that it changes only with its messages."""
    path = po_path(domain, language)
    path.parent.mkdir(parents=True, exist_ok=True)
    catalog.header_comment, catalog.fuzzy = "# The words of Tiebreak's pages.", False
    buffer = BytesIO()
    write_po(buffer, catalog, sort_by_file=True, width=100)
    path.write_bytes(_DATES_AND_LINES.sub(b"", buffer.getvalue()))
    path.with_suffix(".mo").write_bytes(compiled(read(domain, language)))


def main() -> int:
    left = 0
    for language in LANGUAGES:
        for domain in SOURCES:
            catalog = update(domain, language)
            missing = untranslated(catalog)
            left += len(missing)
            print(f"{po_path(domain, language)}: {len(catalog)} messages")
            for item in missing:
                print(f"  without a translation: {item}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
