from dataclasses import dataclass

import pytest

from labeling.core import charts
from labeling.templatetags.numbers import coefficient, percent, points, times


@dataclass
class Figure:
    value: float | None
    low: float | None
    high: float | None


NOTHING = Figure(None, None, None)


def test_an_interval_is_drawn_at_its_values():
    track = charts.track(Figure(0.75, 0.5, 1.0), 0.0, 1.0, 0.5)
    assert (track.at, track.low, track.width, track.mark) == (
        "75.00%",
        "50.00%",
        "50.00%",
        "50.00%",
    )
    assert not track.away
    assert charts.track(Figure(0.75, 0.6, 1.0), 0.0, 1.0, 0.5).away


def test_values_beyond_the_axis_are_drawn_at_its_end():
    track = charts.track(Figure(0.3, 0.1, float("inf")), -0.2, 0.2, 0.0)
    assert (track.at, track.low, track.width) == ("100.00%", "75.00%", "25.00%")
    assert charts.track(NOTHING, 0.0, 1.0, 0.5) is None


def test_a_curve_needs_two_values_and_skips_undefined_ones():
    assert charts.trend([("a", Figure(0.5, 0.4, 0.6)), ("b", NOTHING)]) is None
    trend = charts.trend(
        [("a", Figure(0.6, 0.5, 0.7)), ("b", NOTHING), ("c", Figure(1.0, 0.9, 1.0))]
    )
    assert [dot.label for dot in trend.dots] == ["a", "c"]
    assert [label for _, label in trend.ticks] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert float(trend.dots[1].y) == charts.TOP


@pytest.mark.parametrize(
    ("lowest", "floor"), [(0.6, 0.5), (0.2, 0.0), (-0.2, -0.25), (-0.4, -0.5), (-0.9, -1.0)]
)
def test_a_curves_axis_includes_its_lowest_value(lowest, floor):
    trend = charts.trend([(n, Figure(0.9, lowest, 1.0)) for n in range(2)])
    assert trend.ticks[0][1] == floor and trend.ticks[-1][1] == 1


def test_a_long_curve_labels_some_points_and_the_last():
    trend = charts.trend([(n, Figure(0.9, 0.8, 1.0)) for n in range(26)])
    named = [dot.label for dot in trend.dots if dot.named]
    assert len(named) <= charts.MAX_LABELS and named[-1] == 25


def test_numbers_are_formatted_for_reading():
    assert (percent(0.456), percent(None)) == ("45.6%", "–")
    assert (coefficient(0.456), coefficient(-0.456), coefficient(-0.001)) == (
        "0.46",
        "−0.46",
        "0.00",
    )
    assert (points(0.05), points(-0.051), points(0.0)) == ("+5.0", "−5.1", "0.0")
    assert (times(0.123), times(float("inf")), times(None)) == ("0.12×", "∞", "–")
