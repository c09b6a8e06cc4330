"""Links, names of files and language of the documentation."""

import re
from pathlib import Path

import pytest

from config.env import BASE_DIR
from tests.house.plain_english import count

PAGES = [
    *(BASE_DIR / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((BASE_DIR / "docs").glob("*.md")),
    BASE_DIR / "benchmarks" / "README.md",
]
FOLDERS = {path.name for path in BASE_DIR.iterdir() if path.is_dir()} - {"var", "parts"}
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\s]+)`")
FENCED = re.compile(r"```.*?```", re.DOTALL)


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def files_named(page: Path) -> set[str]:
    """Return the paths in the checkout that a page names, such as `runs/kinds.py`."""
    return {name for name in CODE.findall(prose(page)) if "/" in name and is_path(name)}


def is_path(name: str) -> bool:
    return name.split("/")[0] in FOLDERS and re.fullmatch(r"[\w./-]+", name) is not None


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_page_and_a_heading(document: Path) -> None:
    for link in LINK.findall(prose(document)):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{document.name} links to {name}, which does not exist"
        assert not anchor or anchor in anchors(target), f"{document.name}: no heading for {link}"


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_every_file_that_the_documentation_names_exists(document: Path) -> None:
    missing = [name for name in files_named(document) if not (BASE_DIR / name).exists()]
    assert not missing, f"{document.name} names {missing}"


@pytest.mark.parametrize(
    "guide",
    [
        "Add an importer",
        "Add a setting",
        "Add a run kind",
        "Add a fine-tuning method",
        "Add a page",
    ],
)
def test_the_guide_to_each_task_names_the_files_to_touch(guide: str) -> None:
    text = (BASE_DIR / "CONTRIBUTING.md").read_text()
    section = re.search(rf"^## {guide}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert section, f"CONTRIBUTING.md has no section {guide!r}"
    assert len({name for name in CODE.findall(section[1]) if is_path(name)}) >= 4


def test_the_architecture_page_shows_every_package() -> None:
    text = (BASE_DIR / "docs" / "architecture.md").read_text()
    packages = re.search(r"root_packages = (\[.*?\])", (BASE_DIR / "pyproject.toml").read_text())
    assert packages
    diagram = FENCED.search(text)
    assert diagram
    names = re.findall(r'"(\w+)"', packages[1])
    assert [name for name in names if not re.search(rf"\b{name}\b", diagram[0])] == []


def test_the_documentation_is_in_plain_english() -> None:
    total = count([str(page.relative_to(BASE_DIR)) for page in PAGES])
    assert total.words > 10_000
    assert total.rate() <= 2, "python -m tests.house.plain_english lists the phrasings to replace"
