"""The small form of `python -m benchmarks.queue_hammer`."""

import json

from benchmarks import queue_hammer


def test_sixteen_concurrent_connections_break_no_rule(capsys):
    assert queue_hammer.main(["--seeds", "1", "--claims", "480"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    [case] = result["cases"]
    assert result["broken"] == 0 and set(case["broken"].values()) == {0}
    assert case["claims"] == 480
    for happened in ("submits", "duplicates", "late", "ahead", "expiries", "releases", "skips"):
        assert case[happened] > 0, happened
    assert case["acknowledged"] > 200
