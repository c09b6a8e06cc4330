"""Tests of the language of pages: the chosen one, otherwise the browser's."""

import re

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.utils.translation import override

from config.env import BASE_DIR
from config.web.language import FINGERPRINT

pytestmark = pytest.mark.django_db


def test_pages_use_the_browsers_language_or_english(client: Client) -> None:
    german = client.get("/login/", headers={"accept-language": "de-CH,de;q=0.9"})
    french = client.get("/login/", headers={"accept-language": "fr"})
    assert '<html lang="de"' in german.content.decode() and "Anmelden" in german.content.decode()
    assert '<html lang="en"' in french.content.decode() and "Sign in" in french.content.decode()


def test_the_chosen_language_is_kept(client: Client) -> None:
    sent = client.post("/i18n/setlang/", {"language": "de", "next": "/login/?next=/projects/"})
    assert (sent.status_code, sent["Location"]) == (302, "/login/?next=/projects/")
    assert sent.cookies["django_language"]["max-age"] > 300 * 24 * 3600
    page = client.get("/login/", headers={"accept-language": "en"}).content.decode()
    assert "Anmelden" in page and 'value="en" lang="en"' in page


def test_changing_the_language_needs_a_csrf_token_and_redirects_to_this_site_only() -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.post("/i18n/setlang/", {"language": "de"}).status_code == 403
    sent = Client().post("/i18n/setlang/", {"language": "de", "next": "https://evil.example/"})
    assert sent["Location"] == "/"


def test_translations_for_scripts_follow_the_language_in_the_url(client: Client) -> None:
    address = f"/i18n.js?language=de&words={FINGERPRINT}"
    words = client.get(address, headers={"accept-language": "en"})
    assert words["Content-Type"].startswith("text/javascript")
    assert "immutable" in words["Cache-Control"]
    assert (
        address.replace("&", "&amp;")
        in client.get("/login/", headers={"accept-language": "de"}).content.decode()
    )


@pytest.mark.parametrize(
    "query", ["", "?language=de&words=old", "?language=xx&words=" + FINGERPRINT]
)
def test_translations_without_a_hash_are_not_cached(client: Client, query: str) -> None:
    assert client.get("/i18n.js" + query)["Cache-Control"] == "no-cache"


def test_charts_use_decimal_points_in_every_language() -> None:
    """Check coordinates: a German decimal comma would turn one number into two."""
    drawn = re.compile(r'\s(?:x|y|x1|x2|y1|y2|cx|cy|r|width|height)="\{\{')
    localized = {
        str(path.relative_to(BASE_DIR))
        for path in (BASE_DIR / "templates").rglob("*.html")
        if drawn.search(text := path.read_text()) and "{% localize off %}" not in text
    }
    assert localized == set()
    chart = {
        "width": 10.5,
        "height": 2.5,
        "ticks": [],
        "bins": [],
        "diagonal": [0.5, 1.5, 2.5, 3.5],
    }
    with override("de"):
        svg = render_to_string("reward/charts/reliability.html", {"chart": chart})
    assert 'viewBox="0 0 10.5 2.5"' in svg and 'x1="0.5"' in svg
