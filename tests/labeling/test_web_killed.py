"""`kill -9` of a real gunicorn under load; the small form of the hammer's."""

from benchmarks.web_kills import kill_under_load


def test_no_acknowledged_ranking_is_lost_when_the_web_server_is_killed():
    case = kill_under_load(4, tasks=300, seed=1)
    assert case["acknowledged"] > 10 and 0 < case["masters_killed"] < 4
    assert case["broken"] == dict.fromkeys(case["broken"], 0)
