"""Tests of rules for the whole repository: imports, documentation and safe text."""

import argparse
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import BaseCommand, load_command_class

from config.env import BASE_DIR, VARIABLES

PACKAGES = [
    "accounts",
    "api",
    "benchmarks",
    "buckets",
    "config",
    "database",
    "demo",
    "finetune",
    "formatting",
    "labeling",
    "recipes",
    "reward",
    "runs",
    "serving",
    "webhooks",
]
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors"} | {
    "recipes.preferences.tokens",
    "onelogin",
    "fsspec",
}
"""Packages of the extras, and a module that needs one of them, jinja2."""


def modules() -> list[str]:
    return sorted(
        module.name
        for package in PACKAGES
        for module in pkgutil.walk_packages([str(BASE_DIR / package)], f"{package}.")
    )


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=BASE_DIR, capture_output=True, text=True, check=False
    )


@pytest.mark.processes
@pytest.mark.parametrize("entry", ["config.urls", "config.celery", "config.wsgi"])
def test_web_and_worker_processes_never_import_torch(entry: str) -> None:
    code = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'config.settings'\n"
        "import django; django.setup()\n"
        f"import {entry}\n"
        "from django.urls import get_resolver; get_resolver().url_patterns\n"
        "from django.core.management import get_commands, load_command_class\n"
        "[load_command_class(app, name) for name, app in get_commands().items()"
        " if not app.startswith('django.')]\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.processes
@pytest.mark.parametrize(
    "modules", ["labeling.importing.reading, labeling.importing.process", "config.celery"]
)
def test_imports_and_workers_load_neither_arrow_nor_the_pages(modules: str) -> None:
    """Processes that read no Parquet file save the 30 MB of pyarrow, and the 18 MB of the pages."""
    code = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'config.settings'\n"
        f"import django; django.setup()\nimport {modules}\n"
        "from django.core.checks import run_checks\n"
        "from labeling.management.commands.import_data import Command\n"
        "run_checks(tags=Command.requires_system_checks)\n"
        "print(sorted({'pyarrow', 'config.urls'} & set(sys.modules)))"
    )
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.processes
@pytest.mark.torch
@pytest.mark.parametrize("recipe", ["reward.training.train", "finetune.training.train"])
def test_recipes_import_no_django_celery_or_database(recipe: str) -> None:
    code = (
        f"import sys, {recipe}; print(sorted({{'django', 'celery', 'psycopg'}} & set(sys.modules)))"
    )
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.processes
@pytest.mark.parametrize("package", ["reward.training", "finetune.training"])
@pytest.mark.parametrize(("chosen", "used"), [("", "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_do_not_spin(
    package: str, chosen: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    result = run_python(f"import os, {package}; print(os.environ['OMP_WAIT_POLICY'])")
    assert result.stdout.strip() == used, result.stderr


@pytest.mark.torch
def test_every_module_can_be_imported() -> None:
    for name in modules():
        importlib.import_module(name)


def test_the_documentation_lists_exactly_the_existing_settings() -> None:
    text = (BASE_DIR / "docs" / "settings.md").read_text()
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", text, flags=re.MULTILINE))
    assert documented == set(VARIABLES)


def test_every_command_is_documented() -> None:
    text = (BASE_DIR / "docs" / "commands.md").read_text()
    documented = set(re.findall(r"^## `manage\.py (\w+)`", text, flags=re.MULTILINE))
    assert documented == {path.stem for path in command_files()}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    names: set[str] = set()
    for action in parser._actions:
        names |= {name for name in action.option_strings if name.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            names |= set().union(*map(options_of, action.choices.values()))
    return names


def test_every_option_of_every_command_is_documented() -> None:
    text = (BASE_DIR / "docs" / "commands.md").read_text()
    ordinary = options_of(BaseCommand().create_parser("manage.py", "any"))
    for path in command_files():
        command = load_command_class(path.relative_to(BASE_DIR).parts[0], path.stem)
        for option in options_of(command.create_parser("manage.py", path.stem)) - ordinary:
            assert f"`{option}`" in text, f"docs/commands.md leaves out {option} of {path.stem}"


def command_files() -> list[Path]:
    return [
        path
        for package in PACKAGES
        for path in (BASE_DIR / package).glob("management/commands/*.py")
        if not path.stem.startswith("_")
    ]


@pytest.mark.parametrize("path", command_files(), ids=lambda path: path.stem)
def test_every_command_has_a_help_text(path: Path) -> None:
    command = load_command_class(path.relative_to(BASE_DIR).parts[0], path.stem)
    text = command.create_parser("manage.py", path.stem).format_help()
    assert len(command.help) > 30
    assert " ".join(command.help.split())[:30] in " ".join(text.split())


TRUSTED = {"labeling/core/text.py", "reward/pages/charts.py"}


def test_text_is_marked_as_safe_in_one_module_only() -> None:
    pattern = re.compile(r"\|\s*safe\b|mark_safe\(|\bautoescape off\b|SafeString\(")
    result = {
        str(path.relative_to(BASE_DIR))
        for folder in [*PACKAGES, "templates"]
        for path in (BASE_DIR / folder).rglob("*")
        if path.suffix in {".py", ".html"} and pattern.search(path.read_text())
    }
    assert result <= TRUSTED


def test_templates_have_no_inline_scripts_or_styles() -> None:
    pattern = re.compile(
        r"<script(?![^>]*\b(src|type=\"application/json\"))|<style|\sstyle=|\son[a-z]+=\"",
        re.IGNORECASE,
    )
    for path in (BASE_DIR / "templates").rglob("*.html"):
        result = pattern.search(path.read_text())
        assert not result, f"{path}: {result.group()!r} is refused by the content security policy"
