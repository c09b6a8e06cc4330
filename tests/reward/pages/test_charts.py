import pytest

from formatting.numbers import percent
from reward.pages.charts import curve, interval_row, reliability


def test_an_interval_is_drawn_on_an_axis_in_percent():
    row = interval_row("x", {"value": 0.75, "interval": [0.5, 1.0]})
    assert (row.at, row.low, row.high, row.width) == ("75.00%", "50.00%", "100.00%", "50.00%")
    assert row.interval == "50.0% to 100.0%"


def test_without_a_value_the_reason_is_shown_and_nothing_is_drawn():
    row = interval_row("x", {"value": None, "interval": None, "reason": "Too few."})
    assert (row.at, row.value, row.interval) == (None, "–", "Too few.")
    assert interval_row("x", None).interval == "Unknown."


def bins(*observed, pairs=10):
    return [
        {"low": 0.5, "high": 0.6, "pairs": pairs, "predicted": 0.55, "observed": value}
        for value in observed
    ]


def test_a_point_on_the_diagonal_has_equal_coordinates():
    chart = reliability(bins(0.55))
    dot = chart.bins[0]
    assert float(dot.x) - chart.left == pytest.approx(chart.bottom - float(dot.y), abs=0.11)


def test_every_point_is_inside_the_axes():
    for value in (0.0, 0.3, 0.5, 1.0):
        chart = reliability(bins(value))
        dot = chart.bins[0]
        assert chart.left <= float(dot.x) <= chart.right
        assert chart.top <= float(dot.y) <= chart.bottom


def test_a_point_with_four_times_the_pairs_has_twice_the_extra_radius():
    rows = bins(0.5, pairs=40) + bins(0.6, pairs=10)
    large, small = (float(dot.radius) - 4 for dot in reliability(rows).bins)
    assert large == pytest.approx(2 * small, abs=0.1)


def test_empty_bins_are_not_drawn():
    empty = {"low": 0.6, "high": 0.7, "pairs": 0, "predicted": None, "observed": None}
    assert len(reliability([*bins(0.5), empty]).bins) == 1
    assert reliability([empty]) is None


def test_a_curve_runs_from_the_first_step_to_the_last():
    line = curve([[1, 2.0], [3, 1.0]], width=100, height=28)
    assert line.points == "0.0,4.0 100.0,24.0"
    assert (line.first, line.last, line.steps) == ("2", "1", 3)
    assert curve([[1, 2.0]]) is None
    long = curve([[n, 2.0 if n < 10 else 1.0 if n < 99 else 9.0] for n in range(100)])
    assert (long.first, long.last) == ("2", "1.8")
    assert curve([[1, 2.0], [2, 2.0]]) is not None


def test_percents_keep_their_decimals():
    assert (percent(0.5), percent(0.123, 0)) == ("50.0%", "12%")
