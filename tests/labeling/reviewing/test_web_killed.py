"""`kill -9` of a real gunicorn and of its servers under load; the small form of the hammer's."""

from benchmarks.support.service_kills import faults_under_load
from benchmarks.support.web_kills import kill_under_load


def test_no_acknowledged_ranking_is_lost_when_the_web_server_is_killed():
    case = kill_under_load(4, tasks=300, seed=1)
    assert case["acknowledged"] > 10 and 0 < case["masters_killed"] < 4
    assert case["broken"] == dict.fromkeys(case["broken"], 0)


def test_no_acknowledged_ranking_is_lost_when_the_servers_are_killed_or_stopped():
    case = faults_under_load(6, tasks=400, seed=1)
    assert case["acknowledged"] > 10 and len(case["faults"]) == 6
    broken = {name: count for name, count in case["broken"].items() if name != "pages_late"}
    assert broken == dict.fromkeys(broken, 0)
