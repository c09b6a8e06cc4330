"""Tests of the Makefile's targets for the supply chain, without running them."""

import re
import subprocess
import tomllib

import pytest

from config.env import BASE_DIR

PINS = (BASE_DIR / "constraints.txt").read_text()


def commands_of(target: str) -> str:
    """Return what `make TARGET` would run on a machine without any environment."""
    options = [
        "--no-print-directory",
        "--dry-run",
        "--always-make",
        "VENV=/nowhere",
        "AUDIT_VENV=/nowhere-else",
    ]
    ended = subprocess.run(
        ["make", *options, target], cwd=BASE_DIR, capture_output=True, text=True, check=True
    )
    return ended.stdout


def test_the_tools_of_the_supply_chain_are_pinned() -> None:
    extras = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["project"]
    for requirement in extras["optional-dependencies"]["audit"]:
        name = re.split(r"[~=<>]", requirement)[0]
        assert re.search(rf"^{name}==", PINS, re.MULTILINE)
        assert name in commands_of("audit")


def test_the_bill_of_materials_describes_the_installed_packages() -> None:
    assert "cyclonedx-py environment --pyproject pyproject.toml" in commands_of("sbom")
    assert commands_of("sbom").rstrip().endswith("--output-file sbom.json /nowhere/bin/python")


def test_an_audit_fails_if_a_package_could_not_be_checked() -> None:
    assert "pip-audit --requirement constraints.txt --no-deps --disable-pip --strict" in (
        commands_of("audit")
    )


@pytest.mark.parametrize("target", ["check", "test"])
def test_no_test_needs_the_advisory_service(target: str) -> None:
    assert "pip-audit" not in commands_of(target)
