"""The cost of refusing small files that unpack to gigabytes.

    python -m benchmarks.import_bombs

Writes each file into a temporary folder and reads it in a separate process, as the worker does.
Reports the processor time and the memory above the process's baseline. Needs no database.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support.databases import SECRET_KEY, commit

MB = 1 << 20
SECONDS = 60
READ = """
import json, resource, sys, time
from pathlib import Path
import django
django.setup()
from labeling.importing.records import BadInput
from labeling.importing.files.source import rows
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
def memory(name):
    [line] = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1])
rest = memory("VmRSS")
before, began, count, sentence = usage(), time.monotonic(), 0, ""
try:
    for _ in rows(Path(sys.argv[1])):
        count += 1
except BadInput as problem:
    sentence = str(problem)
after = usage()
print(json.dumps({
    "rows_read": count, "refused": sentence, "wall_s": round(time.monotonic() - began, 2),
    "cpu_s": round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 2),
    "peak_mb": round((memory("VmHWM") - rest) / 1024),
}))
"""


def _table(**columns: Any) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table(columns), path, compression="zstd")


def _packed(*parts: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(gzip.compress(b"".join(parts)))  # type: ignore[return-value]


def _plain(*parts: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(b"".join(parts))  # type: ignore[return-value]


def _repeated(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, "i4")), pa.array([text]))


def _one_list(values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


FILES: dict[str, tuple[str, Callable[[], Callable[[Path], None]]]] = {
    "parquet: a row of 50 million values": (
        ".parquet",
        lambda: _table(prompt=["p"], x=_one_list(pa.array(np.zeros(50_000_000, "i1")))),
    ),
    "parquet: a text of 500 MB": (".parquet", lambda: _table(prompt=["a" * 500_000_000])),
    "parquet: 100,000 rows of the same megabyte": (
        ".parquet",
        lambda: _table(prompt=_repeated("a" * 1_000_000, 100_000)),
    ),
    "parquet: the same megabyte 2,000 times in a row": (
        ".parquet",
        lambda: _table(prompt=["p"], responses=_one_list(_repeated("a" * 1_000_000, 2000))),
    ),
    "parquet: 100 million empty rows": (
        ".parquet",
        lambda: _table(prompt=pa.nulls(100_000_000, pa.string())),
    ),
    "gzip: 7 million small rows": (".jsonl.gz", lambda: _packed(b'{"prompt":"a"}\n' * 7_000_000)),
    "gzip: 100 million blank lines": (".jsonl.gz", lambda: _packed(b"{}\n", b"\n" * 100_000_000)),
    "gzip: 100 MB of spaces": (".json.gz", lambda: _packed(b"[", b" " * 100_000_000)),
    "a line of 63 MB": (".jsonl", lambda: _plain(b'{"prompt":"', b"a" * 63_000_000, b'"}')),
    "a quotation mark that is never closed": (
        ".csv",
        lambda: _plain(b'prompt,response\n"', b"a\n" * 25_000_000),
    ),
    "a row of 10 million cells": (
        ".csv",
        lambda: _plain(b"prompt,response\n", b'"a\n",' * 10_000_000),
    ),
    "a number of 3 million digits": (".jsonl", lambda: _plain(b'{"n":', b"1" * 3_000_000, b"}")),
    "a list nested 100,000 deep": (".json", lambda: _plain(b"[" * 100_000)),
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    suffix, make = FILES[name]
    path = folder / f"bomb{suffix}"
    make()(path)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATABASE_URL": "postgresql:///not-used",
        "TIEBREAK_SECRET_KEY": SECRET_KEY,
    }
    result = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        env=environment, capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    case = {"file": name, "bytes": path.stat().st_size, **json.loads(result.stdout)}
    path.unlink()
    print(f"{name}: {case['wall_s']} s, {case['peak_mb']} MB", file=sys.stderr)
    return case


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = [measure(name, Path(folder)) for name in FILES]
    hardware = {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)}
    result = {"name": "import_bombs", "commit": commit(), "hardware": hardware}
    print(json.dumps({**result, "cases": cases}))


if __name__ == "__main__":
    main()
