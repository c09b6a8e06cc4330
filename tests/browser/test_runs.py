"""Tests of launching and watching a run."""

import re

from playwright.sync_api import expect

from accounts.models import Role, User
from runs.models import Run, State
from tests.runs import kinds
from tests.runs.conftest import begin
from tests.worker import celery_worker, runs_dir, wait_until

__all__ = ["begin", "celery_worker", "kinds", "runs_dir"]


def test_a_trainer_launches_a_run_and_watches_it_end(visit, celery_worker):
    celery_worker(include="tests.runs.kinds")
    page = visit("/runs/", User.objects.create_user("tara", role=Role.TRAINER, all_projects=True))
    page.get_by_role("link", name="New run").click()
    page.get_by_role("link", name=re.compile("Counting")).click()
    page.get_by_label("Word").fill("hello")
    page.get_by_label("Total").fill("80")
    page.get_by_text("More settings").click()
    page.get_by_label("Delay").fill("0.05")
    page.wait_for_load_state()  # The page's script stops the second click.
    page.get_by_role("button", name="Show first batch").click()
    expect(page.locator(".launch-group").first).to_be_visible(timeout=20_000)
    page.get_by_role("button", name="Start run").dblclick()
    expect(page.locator(".badge", has_text="Running")).to_be_visible()
    expect(page.locator(".u-wrap")).not_to_have_count(0)
    expect(page.get_by_text(re.compile("About .* left"))).to_be_visible()
    page.evaluate("() => { document.body.dataset.loaded = 'once'; }")
    page.context.set_offline(True)
    expect(page.get_by_text("Reconnecting… This page shows the run as of")).to_be_visible()
    step = page.get_by_text(re.compile(r"Step \d+ of 80"))
    offline = step.inner_text()
    page.context.set_offline(False)
    expect(page.get_by_text("Reconnecting…")).to_be_hidden()
    expect(step).not_to_contain_text(offline.partition(" of")[0] + " of")
    expect(page.locator("body[data-loaded]")).to_have_count(1)  # it was not loaded again
    expect(page.get_by_text("Succeeded", exact=True)).to_be_visible(timeout=20_000)
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    assert Run.objects.count() == 1


def test_the_review_follows_the_preset_and_the_settings(visit, runs_dir):
    page = visit(
        "/runs/new/counting/",
        User.objects.create_user("tara", role=Role.TRAINER, all_projects=True),
    )
    review = page.get_by_role("region", name="Review")
    expect(review).to_contain_text("Word: This field is required.")
    page.get_by_label("Word").fill("hello")
    page.get_by_role("radio", name=re.compile("Quick look")).check()
    expect(page.get_by_label("Total")).to_have_value("2")
    expect(review).to_contain_text("count hello --preset quick-look")
    page.get_by_label("Total").fill("7")
    expect(review).to_contain_text("--preset quick-look --set total=7")
    expect(review.locator("ins")).to_have_text("7")
    expect(page.get_by_label("Word")).to_have_value("hello")
    page.get_by_role("radio", name=re.compile("Defaults")).check()
    expect(review).to_contain_text("Changes from the defaults")
    expect(page.get_by_label("Total")).to_have_value("7")
    assert not Run.objects.exists()


def test_a_hidden_page_does_not_poll_and_catches_up_when_shown(visit, celery_worker, begin):
    user = User.objects.create_user("tara", role=Role.TRAINER, all_projects=True)
    run = begin(send=False)
    page = visit(f"/runs/{run.pk}/", user)
    expect(page.get_by_text("Queued", exact=True)).to_be_visible()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    hide(page, True)
    page.wait_for_timeout(1800)
    assert requests == []
    Run.objects.filter(pk=run.pk).update(state=State.CANCELLED, finished_at=run.created_at)
    hide(page, False)
    expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
    requests.clear()
    page.wait_for_timeout(1500)
    assert not [url for url in requests if url.endswith("/live")], "an ended run is asked about"


def hide(page, hidden: bool) -> None:
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_run_is_cancelled_from_its_page(visit, celery_worker, begin):
    celery_worker(include="tests.runs.kinds")
    run = begin(total=1000, delay=0.05)
    page = visit(
        f"/runs/{run.pk}/", User.objects.create_user("tara", role=Role.TRAINER, all_projects=True)
    )
    wait_until(lambda: Run.objects.get().step > 2)
    page.get_by_role("button", name="Cancel run").click()
    expect(page.get_by_text("Cancelled", exact=True)).to_be_visible(timeout=15_000)
    expect(page.get_by_role("button", name="Continue from the last checkpoint")).to_be_visible()
