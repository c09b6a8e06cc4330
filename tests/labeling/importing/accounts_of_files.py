"""Counts of a file's values without the importers, to compare with the account of an import."""

import copy
from collections import Counter


def paths(value, path="") -> list[tuple[str, bool]]:
    """Every (path, whether it is a leaf) of a row, as the account writes paths."""
    if isinstance(value, dict) and value:
        here = [] if path in ("",) or path.endswith("[]") else [(path, False)]
        dot = f"{path}." if path else ""
        return here + [
            result for key, item in value.items() for result in paths(item, f"{dot}{key}")
        ]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [(path, False)] + [outcome for item in value for outcome in paths(item, f"{path}[]")]
    return [(path, True)]


def same(path: str) -> str:
    return path


def owner(path: str, columns) -> str | None:
    """Return the deepest column of the account that contains a path."""
    names = [n for n in columns if path == n or path.startswith((f"{n}.", f"{n}[]"))]
    return max(names, key=len, default=None)


def differences(rows, columns, normal=same) -> list[str]:
    """Return the differences between a file and its account."""
    result = [(normal(path), leaf) for row in rows for path, leaf in paths(row)]
    counts = Counter(path for path, _ in result)
    wrong = [
        f"{name}: {column.filled + column.empty} in the account, {counts[name]} in the file"
        for name, column in columns.items()
        if column.filled + column.empty != counts[name]
    ]
    missing = {path for path, leaf in result if leaf and owner(path, columns) is None}
    return wrong + [f"{path}: not in the account" for path in sorted(missing)]


def with_unknown_keys(rows, skip=()):
    """Return the rows with an unknown key in every object, except below the paths in `skip`."""
    rows = copy.deepcopy(rows)
    for row in rows:
        _insert(row, "", set(skip))
    return rows


def _insert(value, path, skip):
    if path in skip:
        return
    if isinstance(value, dict):
        for key, item in list(value.items()):
            _insert(item, f"{path}.{key}" if path else key, skip)
        value[UNKNOWN] = "an unknown value"
    elif isinstance(value, list):
        for item in value:
            _insert(item, f"{path}[]", skip)


UNKNOWN = "zz_unknown"
