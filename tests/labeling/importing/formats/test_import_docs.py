"""Tests that every example in docs/import-formats.md is imported as documented."""

import json
import re
from itertools import pairwise

import pytest

from config.env import BASE_DIR
from labeling.importing.formats.columns.mapping import Mapping
from labeling.importing.reading import FORMATS
from tests.labeling.importing.formats.test_import_fuzz import records_of

PAGE = (BASE_DIR / "docs" / "import-formats.md").read_text()
HEADING = re.compile(r"^(##+) (.+)$", re.MULTILINE)
EXAMPLE = re.compile(
    r"```(?P<kind>json|csv)\n(?P<text>.*?)\n```\n\n\| keys \| read as \|\n\|---\|---\|\n"
    r"(?P<table>(?:\|.*\|\n)+)\nResult: (?P<result>[^.]+)\.(?P<note>.*)",
    re.DOTALL,
)


def sections():
    """Yield (format, title, text) of each part of the page below a heading."""
    format = ""
    headings = [*HEADING.finditer(PAGE), None]
    for heading, following in pairwise(headings):
        level, title = heading.groups()
        format = title if level == "##" else format
        yield format, title, PAGE[heading.end() : following.start() if following else len(PAGE)]


EXAMPLES = {
    f"{format}: {title}": (format, match)
    for format, title, text in sections()
    if format in FORMATS and (match := EXAMPLE.search(text))
}


def values(text):
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        value, end = decoder.raw_decode(text, at)
        yield value
        at = end + len(text[end:]) - len(text[end:].lstrip())


def keys(table):
    """Return the documented meaning of each key."""
    rows = [line.strip("|").split("|") for line in table.strip().split("\n")]
    return {
        key: meaning.strip() for names, meaning in rows for key in re.findall(r"`(.+?)`", names)
    }


def told(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def result(records):
    tasks = [task for record in records for task in record.tasks]
    rankings = [ranking for task in tasks for ranking in task.rankings]
    responses = sum(len(record.responses) for record in records)
    counts = [(len(records), "prompt"), (responses, "response"), (len(tasks), "task"),
              (len(rankings), "ranking")]  # fmt: skip
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(item.reviewer for item in rankings))
    return ", ".join(told(*count) for count in counts) + (f" by {names}" if names else "")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_imported_as_the_page_says(tmp_path, name):
    format, example = EXAMPLES[name]
    path = tmp_path / f"a.{example['kind']}"
    text = example["text"] + "\n"
    path.write_text(
        text
        if example["kind"] == "csv"
        else "".join(json.dumps(value) + "\n" for value in values(text.strip()))
    )
    mapped = re.search(r"Import it with `--map (.+?)`", example["note"])
    mapping = Mapping.parse([mapped[1]]) if mapped else None
    records, tally, detected = records_of(path, mapping)
    assert detected.name == format
    account = {path: column.meaning for path, column in tally.columns.columns.items()}
    assert keys(example["table"]) == account
    assert example["result"] == result(records)


def test_every_format_and_every_block_of_data_is_an_example():
    assert {format for format, _ in EXAMPLES.values()} == set(FORMATS)
    assert len(EXAMPLES) == len(re.findall(r"^```(?:json|csv)$", PAGE, re.MULTILINE)) > 30


def test_every_meaning_in_the_tables_is_explained():
    [account] = [text for _, title, text in sections() if title == "The import report"]
    explained = set(
        re.findall(r"`(.+?)`", "".join(re.findall(r"^\| (`.+?) \|", account, re.MULTILINE)))
    )
    used = {meaning for _, item in EXAMPLES.values() for meaning in keys(item["table"]).values()}
    assert used <= explained
