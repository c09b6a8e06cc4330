"""Tests of request limits and of caching."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest
from django.test import Client
from django.urls import reverse

from config.web.limits import SMALL, UPLOAD, content_length, largest_body, was_signed_in
from labeling.models import Membership
from tests.labeling.world import make_member, make_project

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project()


@pytest.fixture
def lead(client, project):
    client.force_login(make_member(project, Membership.Role.LEAD))
    return client


def file_of(size):
    return SimpleUploadedFile("rankings.jsonl", b" " * size)


@pytest.mark.parametrize("path", ["/login/", "/", "/admin/login/", "/p/lamps/review/"])
def test_a_large_body_is_refused_without_parsing(client, path, monkeypatch):
    def parsed(request):
        raise AssertionError("the body was parsed")

    monkeypatch.setattr(HttpRequest, "_load_post_and_files", parsed)
    reply = client.post(path, {"file": file_of(SMALL)})
    assert reply.status_code == 413 and b"larger than 3 MB" in reply.content


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_form_above_djangos_limit_gets_the_413_page(lead, language):
    """Check that Django's own plain English page does not appear."""
    reply = lead.post(
        reverse("new-project"),
        {"name": "a" * (SMALL - 1000)},
        headers={"accept-language": language},
    )
    assert reply.status_code == 413
    assert {"en": "Too large", "de": "Zu groß"}[language] in reply.text
    assert {"en": "2.5 MB", "de": "2,5 MB"}[language] in reply.text


def test_a_request_that_django_refuses_gets_the_usual_error_page(client):
    reply = client.get("/login/", headers={"host": "elsewhere.example"})
    assert reply.status_code == 400
    assert "This request is not valid" in reply.text
    assert "/css/tiebreak.css" in reply.text


def test_only_signed_in_users_can_upload_a_file(client, project):
    address = reverse("project-import", args=[project.slug])
    assert client.post(address, {"file": file_of(SMALL)}).status_code == 413


def test_a_lead_can_upload_a_large_file(lead, project, settings, tmp_path):
    settings.UPLOADS_DIR = tmp_path
    address = reverse("project-import", args=[project.slug])
    assert lead.post(address, {"file": file_of(SMALL)}).status_code != 413
    assert largest_body(address, may_upload=True) == UPLOAD
    assert largest_body(address, may_upload=False) == SMALL
    assert largest_body(reverse("project-data", args=[project.slug]), may_upload=True) == SMALL


def test_opening_the_import_page_allows_the_upload(lead, project):
    assert not was_signed_in("") and not was_signed_in("tiebreak_upload=1:2:3")
    lead.get(reverse("project-import", args=[project.slug]))
    cookie = lead.cookies["tiebreak_upload"]
    assert was_signed_in(f"a=b; tiebreak_upload={cookie.value}")
    assert cookie["path"] == reverse("project-import", args=[project.slug])
    assert cookie["httponly"]


def test_an_anonymous_visitor_gets_no_upload_cookie(client, project):
    client.get(reverse("project-import", args=[project.slug]))
    assert "tiebreak_upload" not in client.cookies


def test_the_api_refuses_a_large_body_as_json(client):
    reply = client.post("/api/v1/score", b" " * (SMALL + 1), content_type="application/json")
    assert reply.status_code == 413 and reply.json()["status"] == 413


@pytest.mark.parametrize("text", ["²", "-1", "9" * 4301, "1 2"])
def test_an_invalid_length_exceeds_every_limit(text):
    assert content_length(text) > UPLOAD
    assert content_length("") == 0 and content_length("17") == 17


@pytest.mark.parametrize("query", ["project=%00", "%00=1", "q=a%00b"])
def test_an_address_with_a_null_character_is_refused(lead, query):
    reply = lead.get(f"/snapshots/?{query}")
    assert reply.status_code == 400
    assert "<p>The address contains a null character. Remove it.</p>" in reply.text
    problem = lead.get(f"/api/v1/score?{query}")
    assert (problem.status_code, problem.json()["status"]) == (400, 400)


@pytest.mark.parametrize(
    ("language", "sentence"), [("en", "only receives forms"), ("de", "nur Formulare entgegen")]
)
def test_opening_the_url_of_a_form_shows_an_explanation(client, lead, language, sentence):
    for visitor in (client, Client()):
        reply = visitor.get(reverse("logout"), headers={"accept-language": language})
        assert (reply.status_code, reply["Allow"]) == (405, "POST, OPTIONS")
        assert sentence in reply.text
        assert "Welcome" not in reply.text


def test_a_program_with_a_wrong_method_gets_no_page(lead):
    bare = lead.get(reverse("logout"), headers={"accept": "application/json"})
    assert (bare.status_code, bare.content) == (405, b"")
    problem = lead.get("/api/v1/score")
    assert (problem.status_code, problem.json()["status"]) == (405, 405)


def test_pages_are_not_cached(lead, project):
    for path in ("/", reverse("project-data", args=[project.slug]), "/admin/", "/login/"):
        assert "no-store" in lead.get(path)["Cache-Control"], path
    assert "no-store" in lead.get("/api/v1/score")["Cache-Control"]


def test_translations_for_scripts_may_be_cached():
    assert "no-store" not in Client().get("/i18n.js")["Cache-Control"]


def test_a_clients_script_name_changes_no_url(client):
    reply = client.get("/projects/", SCRIPT_NAME="/evil")
    assert reply["Location"] == "/login/?next=/projects/"
