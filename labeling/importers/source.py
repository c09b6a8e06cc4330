"""JSON from files, with the line where each value begins."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labeling.importers.records import BadInput

_SPACE = re.compile(r"\s*")


def read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise BadInput("this is not UTF-8 text.", line) from None


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line that is not blank, streamed. Raises BadInput."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise BadInput("this is not UTF-8 text.", number) from None
            if line.strip():
                yield number, _loads(line, number)


def json_array(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each element of the one array in the file. Raises BadInput."""
    text, decoder = read_text(path), json.JSONDecoder()
    at, line = _SPACE.match(text).end(), 1  # type: ignore[union-attr]
    if text[at : at + 1] != "[":
        raise BadInput("the file must be one JSON array, and begin with [.", 1)
    seen, at = 0, at + 1
    while True:
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            return
        line, seen = line + text.count("\n", seen, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise BadInput(f"this is no JSON: {error.msg}.", error.lineno) from None
        except RecursionError:
            raise BadInput("this is nested too deeply.", line) from None
        yield line, value
        at = _skip(text, at)
        if text[at : at + 1] not in (",", "]"):
            raise BadInput("the array is not closed: the file may be cut off.", line)
        at += text[at] == ","


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _loads(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"this is no JSON: {error.msg}.", number) from None
    except RecursionError:
        raise BadInput("this is nested too deeply.", number) from None
