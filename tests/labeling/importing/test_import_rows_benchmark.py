"""The parts of `python -m benchmarks.import_rows` that need no second checkout."""

import pytest

from benchmarks.import_rows import SHAPES, comparison, write_file
from labeling.importing.reading import import_file
from labeling.models import Prompt, Ranking, Response, Task
from tests.labeling.world import make_project


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("shape", "prompts", "rankings"),
    [("pairs", 6, 6), ("jsonl", 6, 6), ("csv", 6, 0), ("single", 3, 0)],
)
def test_each_shape_is_a_file_of_so_many_rows(tmp_path, shape, prompts, rankings):
    suffix, values = SHAPES[shape]
    path = tmp_path / f"file{suffix}"
    write_file(path, values, 6)
    imported = import_file(path, project=make_project())
    assert sum(imported.tally.read[name] for name in ("rows", "lines")) == 6
    assert Prompt.objects.count() == Task.objects.count() == prompts
    assert Response.objects.count() == 2 * prompts and Ranking.objects.count() == rankings


def version(seconds, rows=5):
    figures = {
        "seconds": seconds, "cpu_seconds": 1.0, "peak_mb": 100.0, "tree_mb": 100.0,
        "server_mb": 0.0, "server_cpu_seconds": 0.0, "last_line": "{}", "rows": {"prompt": rows},
    }  # fmt: skip
    return {"read": figures, "import": figures}


def test_ratios_are_those_within_a_turn():
    turns = [
        {"before": version(10), "after": version(5)},
        {"before": version(100), "after": version(70)},
        {"before": version(10), "after": version(8)},
    ]
    case = comparison("pairs", 5, turns)
    assert case["import"]["seconds"] == {
        "before": 10, "after": 8, "ratio": 0.7, "spread": [0.5, 0.8],
    }  # fmt: skip
    assert "server_mb" not in case["import"] and case["same_rows"]


def test_versions_that_write_different_rows_are_reported():
    assert not comparison("pairs", 5, [{"before": version(1), "after": version(1, 4)}])["same_rows"]
