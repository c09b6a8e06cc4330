"""Size of the database per ranking, by table, with its indexes.

A database is loaded in bulk and dropped at the end: prompts of about 250 characters with four responses
of about 400 and two rankings each, as in benchmarks.export. docs/scaling.md uses the figures.

    python -m benchmarks.table_sizes           1,000,000 rankings, in a few minutes
    python -m benchmarks.table_sizes --quick   10,000

Progress on stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from benchmarks import export
from benchmarks.support.databases import commit, hardware, say
from config.local.services import provide

TABLES = ("prompt", "response", "task", "taskresponse", "slot", "ranking")
SIZES = """
SELECT c.relname, c.reltuples::bigint, pg_table_size(c.oid), pg_indexes_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind = 'r'
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10,000 rankings")
    parser.add_argument("--rankings", type=int, help="number of rankings")
    options = parser.parse_args(argv)
    rankings = options.rankings or (10_000 if options.quick else 1_000_000)
    provide()
    with export.database(rankings) as url:
        say(f"loading {rankings:,} rankings")
        began = time.monotonic()
        export.child("load", url, "--rankings", str(rankings))
        seconds = time.monotonic() - began
        cases = [per_ranking(*row, rankings=rankings) for row in sizes(url)]
    total = sum(case["bytes"] for case in cases)
    result = {
        "name": "table_sizes", "commit": commit(), "hardware": hardware(), "rankings": rankings,
        "load_seconds": round(seconds, 1), "bytes_per_ranking": round(total, 1), "cases": cases,
    }  # fmt: skip
    print(json.dumps(result))
    return 0


def sizes(url: str) -> list[tuple[str, int, int, int]]:
    """Return the name, rows, bytes and bytes of indexes of each table that grows with rankings."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(SIZES).fetchall()
    by_name = {name.removeprefix("labeling_"): tuple(row) for name, *row in rows}
    return [(name, *by_name[name]) for name in TABLES]


def per_ranking(name: str, rows: int, table: int, indexes: int, *, rankings: int) -> dict[str, Any]:
    return {
        "table": name,
        "rows": rows,
        "bytes": round((table + indexes) / rankings, 1),
        "index_bytes": round(indexes / rankings, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
