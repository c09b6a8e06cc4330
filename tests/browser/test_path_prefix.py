"""Test of the site below a path of its host, with static files from another origin."""

import os
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from playwright.sync_api import Browser, Page, expect

from accounts.models import Role
from config.env import BASE_DIR
from config.local.processes import free_port, wait_for_web
from finetune.registry import add_base
from labeling.models import Membership, Ranking
from tests.browser.conftest import World
from tests.finetune.factory import make_run
from tests.worker import database_url

pytestmark = [pytest.mark.processes, pytest.mark.django_db(transaction=True)]
PREFIX = "/tiebreak/"
WRONG = {403, 404, 500}
"""Statuses of addresses and cookies that are wrong. A draft that is sent too late gets a 409."""
PASSWORD = "a long enough password"


@pytest.fixture
def origin(world: World) -> Iterator[str]:
    """Serve pages and WebSockets below the prefix, on the database of the test.

    The other name of the server is the CDN, which is another origin for browsers.
    """
    port = free_port(24000)
    server = subprocess.Popen(
        [
            sys.executable, "-m", "uvicorn", "config.asgi:application", "--host", "127.0.0.1",
            "--port", str(port), "--lifespan", "off", "--log-level", "warning",
        ],
        cwd=BASE_DIR, stdin=subprocess.DEVNULL,
        env={
            **os.environ, "DATABASE_URL": database_url(), "TIEBREAK_PATH_PREFIX": PREFIX,
            "TIEBREAK_SECRET_KEY": settings.SECRET_KEY,
            "TIEBREAK_STATIC_URL": f"http://localhost:{port}{PREFIX}static/",
        },
    )  # fmt: skip
    wait_for_web(port, seconds=60)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(30)


def test_review_runs_and_chat_work_below_a_prefix(browser: Browser, origin: str, world: World):
    """Every address that the browser requests, and every cookie, must be below the prefix."""
    world.add_task()
    world.add_task()
    user = world.reviewer
    user.role = Role.TRAINER
    user.set_password(PASSWORD)
    user.save()
    Membership.objects.filter(user=user).update(role=Membership.Role.LEAD)
    add_base(project=world.project, base="org/tiny", by=user)
    run = make_run("dpo", project=world.project)
    context = browser.new_context(base_url=origin)
    page = context.new_page()
    page.set_default_timeout(15_000)
    requested: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("websocket", lambda socket: requested.append(socket.url))
    page.on("response", lambda reply: errors.append(reply.url) if reply.status in WRONG else None)
    page.on("pageerror", lambda error: errors.append(str(error)))

    page.goto(f"{PREFIX}p/{world.project.slug}/review/")
    page.get_by_label("Username").fill(user.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    rank_both_tasks(page)
    assert Ranking.objects.filter(reviewer=user).count() == 2

    page.goto(f"{PREFIX}runs/")
    page.get_by_role("link", name=f"#{run.pk}").first.click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.locator("[data-theme-toggle]").click()

    chat(page)
    context.close()
    paths = {urlsplit(url).path for url in requested}
    assert {path for path in paths if not path.startswith(PREFIX)} == set()
    assert any(url.startswith("ws:") for url in requested)
    of_files = {urlsplit(url).hostname for url in requested if "/static/" in url}
    assert of_files == {"localhost"}
    assert errors == []


def rank_both_tasks(page: Page) -> None:
    for number in (1, 2):
        expect(page.locator("#ranking-form")).to_be_visible()
        page.wait_for_load_state()
        for key in ("a", "b", "c", "d", "Enter"):
            page.keyboard.press(key)
        expect(page.locator("#review-progress, .empty")).to_contain_text(f"{number} done today")
    cookies = page.context.cookies()
    assert {cookie["name"] for cookie in cookies} >= {"sessionid", "csrftoken", "timezone"}
    assert {cookie["path"] for cookie in cookies} == {PREFIX}


def chat(page: Page) -> None:
    """Send a message. Without a model server, the live server says so, and the page loads the turn."""
    page.goto(f"{PREFIX}chats/")
    page.get_by_role("button", name="Start").click()
    page.get_by_label("Message").fill("Hello?")
    page.keyboard.press("Enter")
    with page.expect_response(lambda reply: reply.url.endswith("/1/")):
        expect(page.locator("#turn-1")).to_contain_text("Hello?")
    expect(page.locator("#turn-1")).to_contain_text("The model server does not answer")
