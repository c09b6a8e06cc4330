"""Tests that TypeScript checks all scripts without exceptions."""

import json
import re
from pathlib import Path

import pytest

from config.env import BASE_DIR

CONFIG = json.loads((BASE_DIR / "tsconfig.json").read_text())
PACKAGES = json.loads((BASE_DIR / "tests/javascript/package-lock.json").read_text())["packages"]
FOLDERS = ["static", "templates", *(path.parent.name for path in BASE_DIR.glob("*/apps.py"))]
SCRIPTS = sorted(
    path
    for folder in FOLDERS
    for path in (BASE_DIR / folder).rglob("*.*js")
    if path.suffix in {".js", ".mjs", ".cjs"} and "vendor" not in path.parts
)
OPT_OUTS = re.compile(r"@ts-(?:nocheck|ignore|expect-error)|@\w+ \{[^}]*\bany\b|@\w+ \{[*?]\}")


def ids(path: Path) -> str:
    return str(path.relative_to(BASE_DIR))


def test_typescript_checks_every_script_strictly() -> None:
    checked = {path for pattern in CONFIG["include"] for path in BASE_DIR.glob(pattern)}
    excluded = {path for folder in CONFIG["exclude"] for path in (BASE_DIR / folder).rglob("*")}
    assert SCRIPTS
    assert [ids(path) for path in SCRIPTS if path not in checked - excluded] == []
    options = CONFIG["compilerOptions"]
    assert options["checkJs"] and options["strict"] and options["noEmit"]


@pytest.mark.parametrize("path", SCRIPTS, ids=ids)
def test_no_script_opts_out_of_the_check(path: Path) -> None:
    assert OPT_OUTS.findall(path.read_text()) == []


def test_the_types_of_uplot_match_the_vendored_version() -> None:
    readme = (BASE_DIR / "static/vendor/uplot/README.md").read_text()
    assert readme.startswith(f"uPlot {PACKAGES['node_modules/uplot']['version']},")


def test_npm_packages_are_pinned_by_checksum_and_name_no_registry() -> None:
    packages = {name: package for name, package in PACKAGES.items() if name}
    assert [name for name, package in packages.items() if not package.get("integrity")] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []
