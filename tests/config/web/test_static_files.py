"""Tests of the addresses and the caching of static files."""

import os
import re
import subprocess
import sys

import pytest
from django.conf import settings
from django.test import Client

from config.env import BASE_DIR
from config.web.static_files import version_of

pytestmark = pytest.mark.django_db
FOREVER = re.compile(r"max-age=315360000, public, immutable")


def addresses(page: str) -> set[str]:
    return set(re.findall(r'(?:href|src)="([^"]*static/[^"]*)"', page))


def test_browsers_keep_static_files_for_years(client: Client) -> None:
    found = addresses(client.get("/login/").content.decode())
    assert any(address.endswith(".css") for address in found)
    assert any(address.endswith(".js") for address in found)
    for address in found:
        assert re.match(r"/static/[0-9a-f]{12}/", address), address
        reply = client.get(address)
        assert reply.status_code == 200
        assert FOREVER.search(reply.headers["Cache-Control"])
        assert reply.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("earlier", ["", "0123456789ab/"])
def test_an_earlier_address_leads_to_the_current_file(client: Client, earlier: str) -> None:
    reply = client.get(f"/static/{earlier}js/dom.js?x")
    assert reply.status_code == 302
    assert reply.headers["Location"] == f"/static/{settings.STATIC_VERSION}js/dom.js"
    assert reply.headers["Cache-Control"] == "no-cache"
    assert client.get(reply.headers["Location"]).status_code == 200
    assert client.get(f"/static/{earlier}js/none.js").status_code == 404
    assert client.get(f"/static/{earlier}../settings.py").status_code in (400, 404)


def test_the_version_changes_with_any_file(tmp_path) -> None:
    (tmp_path / "a.js").write_text("1")
    first = version_of(tmp_path)
    assert version_of(tmp_path) == first
    (tmp_path / "a.js").write_text("2")
    second = version_of(tmp_path)
    (tmp_path / "a.js").rename(tmp_path / "b.js")
    assert len({first, second, version_of(tmp_path)}) == 3


PROGRAM = """
import django; django.setup()
from django.conf import settings
from django.templatetags.static import static
print(static("js/dom.js"))
print(settings.CONTENT_SECURITY_POLICY["DIRECTIVES"]["script-src"])
"""


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=BASE_DIR, capture_output=True, text=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings", **variables},
    )  # fmt: skip


def test_pages_may_load_static_files_from_a_cdn() -> None:
    address, sources = run(TIEBREAK_STATIC_URL="https://cdn.example.org/static").stdout.splitlines()
    assert address == f"https://cdn.example.org/static/{settings.STATIC_VERSION}js/dom.js"
    assert sources == """["'self'", 'https://cdn.example.org']"""


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIEBREAK_STATIC_URL", "cdn.example.org"),
        ("TIEBREAK_STATIC_URL", "https://cdn.example.org/; script-src *"),
        ("TIEBREAK_PATH_PREFIX", "tiebreak"),
        ("TIEBREAK_PATH_PREFIX", "/a/../b"),
        ("TIEBREAK_PATH_PREFIX", "//evil.example"),
    ],
)
def test_a_wrong_address_is_refused(variable: str, value: str, monkeypatch) -> None:
    monkeypatch.setenv(variable, value)
    from django.core.exceptions import ImproperlyConfigured

    from config.env import VARIABLES

    declared = VARIABLES[variable]
    read = declared.address if variable == "TIEBREAK_STATIC_URL" else declared.path_prefix
    with pytest.raises(ImproperlyConfigured, match=variable):
        read()
