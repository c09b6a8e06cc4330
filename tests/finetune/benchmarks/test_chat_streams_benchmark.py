"""Tests of the figures of the benchmark of streams, on numbers worked by hand."""

from benchmarks.chat_streams import REQUESTS, case, parse, slowdowns


def turn(*milliseconds: float, **more: float) -> dict:
    return {name: list(milliseconds) for name in REQUESTS} | {"trouble": []} | more


def test_the_slowdown_is_the_median_of_the_ratios_of_neighbouring_turns():
    alone = [turn(10, 10, 10), turn(40, 40, 40), turn(20, 20, 20)]
    streams = [turn(11, 11, 11), turn(40, 40, 40), turn(100, 100, 100)]
    slower = slowdowns({"alone": alone, "streams": streams})
    assert slower == {name: {"p50": 1.1, "p95": 1.1} for name in REQUESTS}


def test_a_case_has_the_times_of_all_turns():
    turns = [turn(10, 30, characters_per_s=100), turn(20, characters_per_s=300)]
    figures = case("streams", turns, parse([]))
    assert (figures["claims"], figures["claim_p50_ms"], figures["claim_p95_ms"]) == (3, 20, 30)
    assert (figures["streams"], figures["characters_per_s"]) == (50, 200)
