"""Tests of the demo's progress display, with and without a terminal."""

from io import StringIO

import pytest

from demo.progress import Steps, duration


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_shows_one_bar_per_step_with_the_time_left() -> None:
    terminal, clock = Terminal(), Clock()
    steps = Steps(terminal, clock)
    steps.begin("Training")
    clock.now += 30  # loading, before the first progress
    steps.update(0.2)
    clock.now += 10
    steps.update(0.4)
    assert "40% 0:30 left" in terminal.getvalue().split("\r")[-1]
    clock.now += 30
    steps.done()
    lines = terminal.getvalue().split("\n")
    assert len(lines) == 2 and lines[1] == "", "every drawing replaces the one before"
    assert lines[0].endswith("100% 1:10")
    assert max(len(part) for part in lines[0].split("\r\x1b[K")) <= 80


def test_the_time_left_counts_down_between_reports() -> None:
    terminal, clock = Terminal(), Clock()
    steps = Steps(terminal, clock)
    steps.begin("Training")
    clock.now += 5
    steps.update(0.0)
    assert terminal.getvalue().endswith("0% 0:05 so far")
    steps.update(0.2)
    clock.now += 10
    steps.update(0.4)
    texts = []
    for _ in range(4):
        clock.now += 10
        steps.update(0.4)
        texts.append(terminal.getvalue().split("% ")[-1])
    assert texts == ["0:20 left", "0:10 left", "0:00 left", "0:00 left"]


def test_output_without_a_terminal_has_plain_lines() -> None:
    out, clock = StringIO(), Clock()
    steps = Steps(out, clock)
    steps.begin("Training")
    clock.now += 65
    steps.update(0.5)
    steps.done()
    assert out.getvalue() == "Training …\nTraining: 1:05\n"


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (3900, "1:05:00")])
def test_a_duration_is_formatted_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
