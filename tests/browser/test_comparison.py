"""Tests of the comparison of runs in the browser."""

import pytest
from playwright.sync_api import expect

from accounts.models import Role, User
from runs.models import State
from tests.runs import kinds
from tests.runs.test_comparison import add_events
from tests.runs.test_lifecycle import in_state
from tests.worker import runs_dir

__all__ = ["kinds", "runs_dir"]

pytestmark = pytest.mark.usefixtures("runs_dir")


def test_two_runs_are_chosen_in_the_list_and_their_curves_read_with_the_keyboard(visit):
    for title, rate in (("Slow", 1.0), ("Fast", 2.0)):
        run = in_state(State.SUCCEEDED, title=title, result={"accuracy": rate / 4}, total_steps=4)
        add_events(run, *({"step": step, "loss": 4.0 / (rate * step)} for step in range(1, 5)))
    page = visit("/runs/", User.objects.create_user("tara", role=Role.TRAINER, all_projects=True))
    page.get_by_label("Compare Slow").check()
    page.get_by_label("Compare Fast").check()
    page.get_by_role("button", name="Compare selected runs").click()
    chart = page.get_by_role("group", name="loss. The arrow keys move along the curves.")
    chart.focus()
    for key in ("Home", "ArrowRight"):
        page.keyboard.press(key)
    readout = page.locator("[data-readout]")
    expect(readout).to_have_text("2: A 1, B 2")
    page.get_by_label("Show the curves of B, Slow").uncheck()
    page.keyboard.press("Tab")
    chart.focus()
    page.keyboard.press("End")
    expect(readout).to_have_text("4: A 0.5")
    page.get_by_label("Horizontal axis").select_option("progress")
    chart.focus()
    page.keyboard.press("End")
    expect(readout).to_have_text("100.0%: A 0.5")
    page.set_viewport_size({"width": 390, "height": 844})
    # The chart is drawn again after the page has its new width.
    page.wait_for_function("document.documentElement.scrollWidth <= 390")
