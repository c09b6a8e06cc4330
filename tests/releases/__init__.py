"""Databases of earlier releases, as SQL that `pg_dump --inserts` wrote. They contain no real data."""

import gzip
import re
from pathlib import Path

import psycopg

MIGRATION = re.compile(r"\(\d+, '(\w+)', '(\w+)', '\d{4}-")
UNKNOWN_TO_POSTGRESQL_16 = ("SET transaction_timeout",)


def path_of(version: str) -> Path:
    return Path(__file__).with_name(f"{version}.sql.gz")


def all_paths() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.sql.gz"))


def sql_of(path: Path) -> str:
    """Return the statements without those of psql, and without settings of a newer PostgreSQL."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return "\n".join(
        line for line in lines if not line.startswith(("\\", *UNKNOWN_TO_POSTGRESQL_16))
    )


def load(path: Path, url: str) -> None:
    """Load the database of a release into an empty database."""
    with psycopg.connect(url) as database:
        database.execute("DROP SCHEMA public")
        database.execute(sql_of(path).encode())


def migrations_of(path: Path) -> set[tuple[str, str]]:
    """Return the migrations that are applied in the database of a release."""
    return {(app, name) for app, name in MIGRATION.findall(sql_of(path))}
