"""Fixtures for tests with a real Chromium and a real server. A missing browser is a failure."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from accounts.models import User
from labeling.models import Prompt, Response, Task
from labeling.queue.tasks import add_task
from tests.browser.install import find_browser
from tests.labeling.world import make_member, make_project

expect.set_options(timeout=15_000)

# Playwright runs an event loop in this thread, and Django refuses to run its ORM in one.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"

QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    path = os.environ.get("TIEBREAK_TEST_BROWSER") or find_browser()
    if path is None:
        pytest.fail(
            "The browser tests need a Chromium and found none. Run `make browser`, or put "
            "chromium or google-chrome on the PATH."
        )
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    return {**browser_type_launch_args, "executable_path": path, "args": QUIET + sandbox}


class World:
    """A project with a guideline, a reviewer and tasks."""

    def __init__(self) -> None:
        self.project = make_project(rankings_per_task=1)
        self.reviewer = make_member(self.project)

    def add_task(self, *texts: str, prompt: str = "My goose lamp has a bent neck.") -> Task:
        number = Prompt.objects.count()
        question = Prompt.objects.create(
            project=self.project,
            messages=[{"role": "user", "content": f"{prompt} (letter {number})"}],
        )
        answers = [
            Response.objects.create(prompt=question, text=text, model_name=f"writer-{n}")
            for n, text in enumerate(texts or ("A new one.", "Sorry!", "We look into it.", "No."))
        ]
        return add_task(project=self.project, prompt=question, responses=answers)[0]

    @property
    def review(self) -> str:
        return f"/p/{self.project.slug}/review/"


@pytest.fixture
def world(transactional_db: None) -> World:
    return World()


@pytest.fixture
def visit(
    browser: Browser, live_server: LiveServer, transactional_db: None
) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a URL as a user. At the end, checks that no page had an error.

    The function returns when the page has loaded: its module scripts have run and listen for keys.
    """
    contexts, complaints = [], []

    def open_page(address: str, user: User | None = None, **options: Any) -> Page:
        context = browser.new_context(base_url=live_server.url, **options)
        contexts.append(context)
        if user is not None:
            client = Client()
            client.force_login(user)
            cookie = client.cookies[settings.SESSION_COOKIE_NAME]
            context.add_cookies(
                [{"name": cookie.key, "value": cookie.value, "url": live_server.url}]
            )
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda text: (
                complaints.append(text.text)
                if text.type == "error" and "Failed to load resource" not in text.text
                else None
            ),
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
