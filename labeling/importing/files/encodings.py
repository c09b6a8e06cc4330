"""Conversion of text files to UTF-8 before they are read."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from labeling.importing.files.rows import CHUNK
from labeling.importing.files.source import open_file
from labeling.importing.records import BadInput

UTF8 = "utf-8"
ENCODINGS = (UTF8, "windows-1252", "utf-16")


@contextmanager
def as_utf8(path: Path, encoding: str) -> Iterator[Path]:
    """Yield the path of the file itself if it is in UTF-8, otherwise of a temporary copy in UTF-8.

    Raises BadInput if the file is not text in this encoding.
    """
    if encoding == UTF8:
        yield path
        return
    with TemporaryDirectory(prefix="tiebreak-import-") as folder:
        copy = Path(folder) / path.name
        try:
            with open_file(path) as source, copy.open("w", encoding=UTF8, newline="") as target:
                decoder = codecs.getincrementaldecoder(encoding)()
                while chunk := source.read(CHUNK):
                    target.write(decoder.decode(chunk))
                target.write(decoder.decode(b"", final=True))
        except UnicodeError as error:
            raise BadInput(f"{path.name} is not {encoding} text: {error}.") from None
        yield copy
