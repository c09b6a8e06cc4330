"""The pages speak the reader's language: the browser's first, then the one chosen."""

import re

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.utils.translation import override

from config.env import BASE_DIR
from config.web.language import FINGERPRINT

pytestmark = pytest.mark.django_db


def test_it_speaks_the_language_of_the_browser_and_english_otherwise(client: Client) -> None:
    german = client.get("/login/", headers={"accept-language": "de-CH,de;q=0.9"})
    french = client.get("/login/", headers={"accept-language": "fr"})
    assert '<html lang="de"' in german.content.decode() and "Anmelden" in german.content.decode()
    assert '<html lang="en"' in french.content.decode() and "Sign in" in french.content.decode()


def test_it_keeps_the_language_that_was_chosen(client: Client) -> None:
    sent = client.post("/i18n/setlang/", {"language": "de", "next": "/login/?next=/projects/"})
    assert (sent.status_code, sent["Location"]) == (302, "/login/?next=/projects/")
    assert sent.cookies["django_language"]["max-age"] > 300 * 24 * 3600
    page = client.get("/login/", headers={"accept-language": "en"}).content.decode()
    assert "Anmelden" in page and 'value="en" lang="en"' in page


def test_it_needs_a_token_to_change_the_language_and_leads_to_no_other_server() -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.post("/i18n/setlang/", {"language": "de"}).status_code == 403
    sent = Client().post("/i18n/setlang/", {"language": "de", "next": "https://evil.example/"})
    assert sent["Location"] == "/"


def test_it_serves_the_words_of_the_scripts_in_the_language_of_the_address(client: Client) -> None:
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
def test_it_lets_no_browser_keep_words_that_may_change(client: Client, query: str) -> None:
    assert client.get("/i18n.js" + query)["Cache-Control"] == "no-cache"


def test_it_draws_with_decimal_points_in_every_language() -> None:
    """German writes 3,5; in a coordinate that is two numbers, and the chart falls apart."""
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
