"""The settings, inputs and versions of several runs, and how they differ."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buckets.files import fetch_quietly
from recipes.rundir import RunDirError
from runs import live, storage
from runs.models import Run
from runs.supervision import workspace
from runs.templatetags.runs import kind_title, metric, value_text

NOT_SET = object()


@dataclass(frozen=True)
class Row:
    """A setting of several runs. `cells` has its value for each run, "" if the run does not have it.

    `shared` says whether all runs have it.
    """

    label: str
    cells: list[str]
    differs: bool
    shared: bool = True


def rows(runs: Sequence[Run]) -> list[Row]:
    """Return the kind, the inputs, the settings and the versions of the runs.

    Reads run.json of each run, whose directory can be missing.
    """
    inputs = [{k: v for k, v in run.inputs.items() if k != "project"} for run in runs]
    return [
        _row("Kind", [kind_title(run) for run in runs]),
        *_rows(inputs, _names(inputs), _input_label, as_input),
        *_rows([run.config for run in runs], _setting_names(runs), _labels(runs).get, as_setting),
        *_rows([versions_of(run) for run in runs], None, _version_label, str),
    ]


def differing(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.differs and row.shared]


def partial(rows: Iterable[Row]) -> list[Row]:
    """Return the settings that only some of the runs have, such as those of their methods."""
    return [row for row in rows if not row.shared]


def equal(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row.differs]


def _rows(values: Sequence[Mapping[str, Any]], names: Any, label: Any, text: Any) -> list[Row]:
    names = names if names is not None else _names(values)
    rows = []
    for name in names:
        raw = [each.get(name, NOT_SET) for each in values]
        cells = ["" if value is NOT_SET else text(value) for value in raw]
        keys = {json.dumps(None if v is NOT_SET else v, sort_keys=True, default=str) for v in raw}
        shared = NOT_SET not in raw
        rows.append(Row(label(name) or name, cells, len(keys) > 1 or not shared, shared))
    return rows


def _row(label: str, cells: list[str]) -> Row:
    return Row(label, cells, len(set(cells)) > 1)


def _names(values: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in values for name in each))


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """Return the labels of the settings, from the first kind that has each of them."""
    labels: dict[str, str] = {}
    for run in runs:
        kind = live.kind_of(run)
        for option in kind.config_class.options() if kind else []:
            labels.setdefault(option.name, option.label)
    return labels


def _setting_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the settings, in the order of the forms."""
    used = {name for run in runs for name in run.config}
    ordered = [name for name in _labels(runs) if name in used]
    return [*ordered, *sorted(used - set(ordered))]


def _input_label(name: str) -> str:
    return metric(name).capitalize()


def _version_label(name: str) -> str:
    return f"{name} version"


def as_input(value: Any) -> str:
    is_row = isinstance(value, int) and not isinstance(value, bool)
    return f"#{value}" if is_row else as_setting(value)


def as_setting(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return value_text(storage.resolve(value) if isinstance(value, str) else value)


def versions_of(run: Run) -> dict[str, str]:
    """Return the versions in run.json: that of Tiebreak and those of packages. {} without the file."""
    run_dir = workspace.run_dir_of(run)
    fetch_quietly(run_dir.path / "run.json")
    try:
        versions = run_dir.spec().get("versions")
    except (RunDirError, OSError, AttributeError, UnicodeDecodeError):
        return {}
    return {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}
