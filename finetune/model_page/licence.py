"""The licence of the base of a model, as the files of the base state it."""

import re
from dataclasses import dataclass
from pathlib import Path

from finetune.models import Model
from reward.references import folder_of
from runs import storage

FILES = (
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "LICENCE",
    "LICENCE.txt",
    "LICENCE.md",
    "USE_POLICY.md",
)
MOST_BYTES = 200_000
FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*$", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"^(license|license_name|license_link):[ \t]*(.*)$", re.MULTILINE)
PERMISSIVE = frozenset(
    {"apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense"}
)
NON_COMMERCIAL = re.compile(r"(^|-)nc(-|$)")


@dataclass(frozen=True)
class Licence:
    """A licence, and the file that states it. `name` is "" if no file does."""

    name: str
    source: str
    advice: str
    link: str = ""


def licence_of(model: Model) -> Licence:
    """Return the licence of the base at the end of the model's ancestry.

    It is the one in the front matter of the base's README.md or, without one, its licence file. Costs a
    query per step of the ancestry that is not loaded.
    """
    root = model.root()
    if root.endpoint:
        return Licence("", "", f"The terms of the endpoint {root.endpoint} apply.")
    storage.fetch_file(root.base, "README.md")
    base = storage.resolve(root.base)
    folder = folder_of(base)
    if folder is None or not folder.is_dir():
        return Licence(
            "",
            "",
            f"This machine has no files of {base}. Read its licence at its publisher's page.",
        )
    entries = _front_matter(folder / "README.md")
    name = entries.get("license", "")
    if name in ("", "other") and entries.get("license_name"):
        name = entries["license_name"]
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if name:
        link = entries.get("license_link", "")
        return Licence(
            name,
            str(folder / "README.md"),
            advice_on(name),
            link if link.startswith(("https://", "http://")) else "",
        )
    if file:
        title = _title(file)
        return Licence(title, str(file), "Read the file before you use the model.")
    return Licence(
        "",
        "",
        f"The files of {base} state no licence. Ask its publisher before you use the model outside "
        "your organisation.",
    )


def advice_on(name: str) -> str:
    """Return a sentence about a licence with this identifier."""
    if name.lower() in PERMISSIVE:
        return "This licence permits commercial use. Keep its notices when you pass the model on."
    if NON_COMMERCIAL.search(name.lower()):
        return "This licence does not permit commercial use."
    return "Read its terms: they can restrict the use of models that are made from this one."


def _front_matter(readme: Path) -> dict[str, str]:
    """Return the entries about the licence in the front matter of a model card."""
    match = FRONT_MATTER.match(_text(readme))
    entries = ENTRY.findall(match[1]) if match else []
    return {key: value.split(" #")[0].strip().strip("'\"")[:200] for key, value in entries}


def _title(file: Path) -> str:
    """Return the first line with words in a licence file, or its name."""
    lines = (line.strip(" #*=-\t") for line in _text(file).splitlines())
    return next((line[:100] for line in lines if line), file.name)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(MOST_BYTES).decode("utf-8", "replace").replace("\0", "")
    except OSError:
        return ""
