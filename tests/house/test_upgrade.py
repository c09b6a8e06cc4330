"""Tests that a database of the last release can be upgraded, and that people can then work in it.

tests/releases has the database of each release as SQL. Before a release, this writes a new one:

    TIEBREAK_PIN_RELEASE=1 python -m pytest tests/house/test_upgrade.py -k kept
"""

import gzip
import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from config.backup import tools
from tests import releases
from tests.house.access_world import make_people, make_side
from tests.installations import another_installation, manage

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]
MAX_BYTES = 300_000


def test_the_database_of_a_release_is_kept(settings: Any, tmp_path: Path) -> None:
    """Write the file if TIEBREAK_PIN_RELEASE is set. The rows are those of the access matrix."""
    project = tomllib.loads((django_settings.BASE_DIR / "pyproject.toml").read_text())["project"]
    path = releases.path_of(project["version"])
    if os.environ.get("TIEBREAK_PIN_RELEASE"):
        for name in ("runs", "snapshots", "uploads"):
            setattr(settings, f"{name.upper()}_DIR", tmp_path / name)
        make_side()
        make_side()
        make_people()
        command = [
            tools.program("pg_dump"), "--schema=public", "--inserts", "--rows-per-insert=100",
            "--no-owner", "--no-privileges",
        ]  # fmt: skip
        sql = subprocess.run(command, env=tools.environment(), capture_output=True, check=True)
        path.write_bytes(gzip.compress(sql.stdout, mtime=0))
    assert path in releases.all_paths(), f"{path} is missing: {__doc__}"
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("path", releases.all_paths(), ids=lambda path: path.name)
def test_an_upgraded_database_has_its_rankings_and_is_usable(path: Path, tmp_path: Path) -> None:
    with another_installation("tiebreak_upgraded", tmp_path) as environment:
        releases.load(path, environment["DATABASE_URL"])
        program = "from tests.house.upgraded_loop import main; main()"
        ended = manage(environment, "shell", "-c", program)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["pages"] >= 50
    assert result["rankings_before"] >= 6
    assert result["snapshot_rankings"] >= 1
