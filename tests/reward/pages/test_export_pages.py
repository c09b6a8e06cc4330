import io
import json

import pyarrow.parquet as pq
import pytest
from django.urls import reverse

from accounts.models import AuditEntry, Role
from tests.clients import signed_in
from tests.reward.factory import make_project, make_prompt, make_task, make_user, rank

pytestmark = pytest.mark.django_db

PAIRS = {"form": "pairs", "suffix": ".jsonl", "ties": "half"}


@pytest.fixture
def project():
    project = make_project()
    for n in range(3):
        rank(make_task(make_prompt(project, f"{n}?"), ("a", "b")), make_user(), ((0,), (1,)))
    return project


@pytest.fixture
def client():
    return signed_in(make_user(role=Role.TRAINER))


def page(client, name, project, **query):
    return client.get(reverse(name, args=[project.slug]), query)


def body(response) -> bytes:
    return b"".join(response.streaming_content)


def test_the_page_shows_counts_before_the_download(client, project):
    shown = page(client, "project-export", project, **PAIRS)
    assert ("rows", 3) in shown.context["counts"] and b">Download</a>" in shown.content
    assert b">Download</a>" not in page(client, "project-export", project).content


def test_a_download_is_streamed_and_audited(client, project):
    response = page(client, "project-export-file", project, **PAIRS)
    assert response.streaming and f"{project.slug}-pairs.jsonl" in response["Content-Disposition"]
    rows = [json.loads(line) for line in body(response).splitlines()]
    assert [row["chosen"][0]["content"] for row in rows] == ["a"] * 3
    assert AuditEntry.objects.get(action="data exported").details["format"] == "pairs"


@pytest.mark.parametrize("form", ["kwise", "pairs-implicit", "unpaired", "full"])
def test_parquet_is_streamed_too(client, project, form):
    query = {**PAIRS, "form": form, "suffix": ".parquet"}
    content = body(page(client, "project-export-file", project, **query))
    assert pq.read_table(io.BytesIO(content)).num_rows == (6 if form == "unpaired" else 3)


def test_the_card_has_the_same_counts(client, project):
    text = page(client, "project-export-about", project, **PAIRS).content.decode()
    assert "Ties: a tie is half a win for each response" in text and "| rows | 3 |" in text


@pytest.mark.parametrize(
    ("query", "sentence"),
    [({"form": "full", "split": "test"}, "whole project"), ({"names": "on"}, "Only full records")],
)
def test_an_invalid_choice_has_an_error_next_to_the_field(client, project, query, sentence):
    for name in ("project-export", "project-export-file", "project-export-about"):
        response = page(client, name, project, **{**PAIRS, **query})
        assert sentence in response.content.decode()
    assert not AuditEntry.objects.filter(action="data exported").exists()


@pytest.mark.parametrize("name", ["project-export-file", "project-export-about"])
def test_only_leads_can_download(project, name):
    assert page(signed_in(make_user()), name, project, **PAIRS).status_code in (403, 404)
