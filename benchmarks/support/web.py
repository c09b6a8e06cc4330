"""The product's web server for benchmarks, and an HTTP client that acts as the review page does."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

import psutil

from benchmarks.support.databases import environment
from config.env import BASE_DIR
from config.local.processes import free_port, wait_for_web


class WebServer:
    """A gunicorn server on a database, in its own session."""

    def __init__(self, url: str, *, workers: int = 2, threads: int = 4):
        self.url, self.workers, self.threads = url, workers, threads
        self.port = free_port(18000)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "gunicorn", "config.wsgi:application",
                "--bind", f"127.0.0.1:{self.port}", "--worker-class", "config.web.server.BufferingWorker",
                "--workers", str(self.workers), "--threads", str(self.threads),
                "--log-level", "critical", "--no-control-socket", "--graceful-timeout", "5",
            ],
            cwd=BASE_DIR, env=environment(self.url), stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_for_web(self.port, seconds=60)

    def kill_worker(self, number: int) -> None:
        """`kill -9` of one worker process; the master starts another."""
        children = psutil.Process(self.process.pid).children()
        if children:
            children[number % len(children)].kill()

    def kill(self) -> None:
        """`kill -9` of the master and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.kill()


def sign_in(user: Any) -> str:
    """Create a session as a sign-in does, and return its key."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY

    from accounts.sign_in.sessions import SessionStore

    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "accounts.backends.PasswordBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


FIELDS = {
    name: re.compile(rf'name="{name}" value="([^"]*)"'.encode())
    for name in ("slot", "shown_order", "idempotency_key", "csrfmiddlewaretoken")
}
VERSION = re.compile(rb'name="guideline_version" value="(\d+)"')


@dataclass
class Form:
    """The form of a sheet."""

    slot: str
    shown_order: list[str]
    fields: dict[str, str]

    @classmethod
    def of(cls, html: bytes) -> "Form | None":
        matches = {name: pattern.search(html) for name, pattern in FIELDS.items()}
        if not all(matches.values()):
            return None
        fields = {name: match[1].decode() for name, match in matches.items() if match}
        if version := VERSION.search(html):
            fields["guideline_version"] = version[1].decode()
        return cls(fields["slot"], fields["shown_order"].split(","), fields)

    def answer(self, shown: str = "") -> str:
        """Return the encoded form with a ranking in the order shown, without ties."""
        ranks = {f"rank-{response}": n for n, response in enumerate(self.shown_order, start=1)}
        fields = {name: text for name, text in self.fields.items() if name != "csrfmiddlewaretoken"}
        return urlencode({**fields, **ranks, "active_seconds": "3.2", "shown": shown})


@dataclass
class Browser:
    """A reviewer's page: it keeps a connection open, and prefetches the next sheet."""

    port: int
    session: str
    slug: str
    cookies: dict[str, str] = field(default_factory=dict)
    connection: http.client.HTTPConnection | None = None
    form: Form | None = None
    prefetched: Form | None = None
    token: str = ""

    def request(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body. Raises OSError or HTTPException if server or database is unavailable."""
        self.connection = self.connection or http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=30
        )
        cookies = {"sessionid": self.session, **self.cookies}
        sent = {"Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items()), **(headers or {})}
        try:
            self.connection.request(method, path, body, sent)
            answer = self.connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if set_cookie := answer.headers.get("Set-Cookie"):
            for name, morsel in SimpleCookie(set_cookie).items():
                self.cookies[name] = morsel.value
        if answer.status == 503:
            raise ConnectionError(content.decode()[:300])
        return answer.status, content

    def close(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None

    def open(self) -> bool:
        """Load the page, and return whether it has a task."""
        status, html = self.request("GET", f"/p/{self.slug}/review/")
        if status != 200:
            raise RuntimeError(f"the review page answered {status}")
        self.form, self.prefetched = Form.of(html), None
        if self.form:
            self.token = self.form.fields["csrfmiddlewaretoken"]
        return self.form is not None

    def prepare(self) -> None:
        """Prefetch the next sheet."""
        _, html = self.request("GET", f"/p/{self.slug}/review/next/")
        self.prefetched = Form.of(html)

    def submit(self) -> dict[str, Any]:
        """Submit the sheet and show the next one. Raises RuntimeError unless the status is 200."""
        assert self.form is not None
        reply = self.send(self.form, self.prefetched.slot if self.prefetched else "")
        following = Form.of(reply["sheet"].encode()) if reply.get("sheet") else None
        if self.prefetched:
            self.form, self.prefetched = self.prefetched, following
        else:
            self.form = following
        return reply

    def send(self, form: Form, shown: str = "") -> dict[str, Any]:
        status, content = self.request(
            "POST", f"/p/{self.slug}/review/", form.answer(shown),
            {
                "Accept": "application/json", "X-CSRFToken": self.token,
                "Content-Type": "application/x-www-form-urlencoded",
            },
        )  # fmt: skip
        if status != 200:
            raise RuntimeError(f"a submit was answered with {status}: {content[:300]!r}")
        return json.loads(content)
