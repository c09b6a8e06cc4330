import json

from benchmarks.export import main

KEYS = {"rankings", "form", "file", "rows", "seconds", "peak_mb", "idle_mb", "rankings_per_s"}


def test_the_benchmark_ends_with_one_line_of_json_and_memory_does_not_grow(capfd):
    assert main(["--rankings", "200", "2000"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["name"] == "export" and {"commit", "hardware", "cases"} <= result.keys()
    assert all(case.keys() >= KEYS for case in result["cases"])
    assert [case["same_after_kill"] for case in result["cases"][2::3]] == [True, True]
    assert result["memory_ratio"] < 1.6
