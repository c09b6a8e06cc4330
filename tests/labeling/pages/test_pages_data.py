"""Tests of the pages of imports and findings."""

import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role, User
from labeling.importing import lifecycle
from labeling.models import FileImport, Finding, Project, Prompt, Response, Slot, Task
from tests.clients import signed_in
from tests.labeling.importing.file_imports import work
from tests.labeling.importing.test_findings import LEAK
from tests.labeling.pages.test_pages_project import make_lead
from tests.labeling.world import make_member, make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def folder(settings, tmp_path) -> Path:
    settings.UPLOADS_DIR = tmp_path / "uploads"
    return settings.UPLOADS_DIR


@pytest.fixture
def lead(project) -> User:
    return make_lead(project)


def line(prompt="How?", responses=("So.", "Thus."), **fields) -> str:
    ask = [{"role": "user", "content": prompt}]
    return json.dumps({"messages": ask, "responses": list(responses), **fields}) + "\n"


def sent(client: Client, project: Project, content, name="a.jsonl", **fields):
    file = SimpleUploadedFile(name, content if isinstance(content, bytes) else content.encode())
    url = reverse("project-import", args=[project.slug])
    return client.post(url, {"file": file, "format": "auto", "encoding": "utf-8", **fields})


# --- access --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["project-import", "project-findings", "project-export"])
def test_only_leads_can_open_the_pages(project, lead, name):
    url = reverse(name, args=[project.slug])
    assert signed_in(lead).get(url).status_code == 200
    assert signed_in(make_user(Role.TRAINER)).get(url).status_code == 200
    assert signed_in(make_member(project)).get(url).status_code == 403
    assert signed_in(make_lead(make_project())).get(url).status_code == 404
    assert Client().get(url).status_code == 302


def test_a_reviewer_can_neither_import_nor_decide_findings(project, lead):
    reviewer = signed_in(make_member(project))
    assert sent(reviewer, project, line()).status_code == 403
    url = reverse("project-findings-decide", args=[project.slug])
    assert reviewer.post(url, {"release": "1"}).status_code == 403
    assert signed_in(lead).get(url).status_code == 405
    assert not Prompt.objects.exists()


# --- import --------------------------------------------------------------------------------------


def checked(client: Client, project: Project, *args, **fields):
    """Return the page of a checked file, and its URL."""
    url = sent(client, project, *args, **fields).url
    work()
    return client.get(url), url


def imported(client: Client, project: Project, *args, **fields):
    _, url = checked(client, project, *args, **fields)
    client.post(url)
    work()
    return client.get(url)


def test_a_file_is_checked_before_anything_is_saved(project, lead, folder):
    client = signed_in(lead)
    page, url = checked(client, project, line() + line("Why?", ["Since."]))
    assert page.context["report"]["format"] == "jsonl" and not Prompt.objects.exists()
    figures = {
        item["name"]: (item["read"], item["new"]) for item in page.context["report"]["lines"]
    }
    assert figures["prompts"] == (2, 2) and figures["tasks"] == (1, 1)
    assert "Lines with fewer than two responses (no task): 1" in page.content.decode()
    client.post(url)
    work()
    assert "2 new prompts" in client.get(url).content.decode()
    assert Task.objects.filter(project=project).count() == 1
    assert AuditEntry.objects.get(action="file imported").user == lead
    assert not list(folder.iterdir())


def test_a_second_click_on_import_changes_nothing(project, lead):
    client = signed_in(lead)
    _, url = checked(client, project, line())
    client.post(url)
    assert "not waiting to be imported" in client.post(url, follow=True).content.decode()
    work()
    client.post(url)
    assert FileImport.objects.get().state == "imported"
    assert AuditEntry.objects.filter(action="file imported").count() == 1


def test_the_page_of_a_waiting_file_has_its_state_for_the_script(project, lead):
    client = signed_in(lead)
    url = sent(client, project, line()).url
    assert "Waiting for a worker" in client.get(url).content.decode()
    assert client.get(f"{url}state/").json() == {"state": "checking", "prompts": 0}
    work()
    assert client.get(f"{url}state/").json()["state"] == "ready"
    assert client.post(f"{url}state/").status_code == 405
    assert signed_in(make_lead(make_project())).get(f"{url}state/").status_code == 404


def test_a_wrong_file_is_refused_with_its_line_and_saves_nothing(project, lead, folder):
    client = signed_in(lead)
    page, url = checked(client, project, line() + '{"messages": 3}\n')
    sentence = "Nothing was imported. Correct the file and import it again"
    assert "Line 2: " in page.content.decode() and sentence in page.content.decode()
    client.post(url)
    work()
    assert not Prompt.objects.exists() and FileImport.objects.get().state == "failed"
    odd, _ = checked(client, project, "hm", "a.txt")
    assert "a.txt" in odd.content.decode() or "not valid JSON" in odd.content.decode()


def test_a_file_that_is_already_imported_cannot_be_imported_again(project, lead):
    client = signed_in(lead)
    imported(client, project, line())
    page, _ = checked(client, project, line())
    assert (
        "has already been imported" in page.content.decode()
        and ">Import</button>" not in page.content.decode()
    )


def test_the_page_shows_which_tasks_would_be_held(project, lead):
    page, _ = checked(signed_in(lead), project, line(responses=["So.", LEAK]))
    assert "1 new task would be held" in page.content.decode() and not Finding.objects.exists()


def test_a_file_that_is_too_large_is_refused(project, lead, monkeypatch, folder):
    monkeypatch.setattr("labeling.pages.imports.MAX_UPLOAD_BYTES", 10)
    page = sent(signed_in(lead), project, line())
    assert page.status_code == 413
    assert "manage.py import_data" in page.content.decode() and not folder.exists()


def test_ratings_of_other_criteria_are_kept_on_request(project, lead):
    client = signed_in(lead)
    ranked = line(rankings=[{"reviewer": "ada", "tiers": [[0], [1]], "ratings": {"0": {"wit": 7}}}])
    assert "no criterion" in checked(client, project, ranked)[0].content.decode()
    imported(client, project, ranked, any_criteria="on")
    [ranking] = Task.objects.get().rankings.all()
    assert list(ranking.ratings.values()) == [{"wit": 7}]


def test_an_upload_belongs_to_one_project(project, lead):
    url = sent(signed_in(lead), project, line()).url
    work()
    elsewhere = make_project()
    trainer = signed_in(make_user(Role.TRAINER))
    assert trainer.post(url.replace(project.slug, elsewhere.slug)).status_code == 404
    assert signed_in(make_lead(elsewhere)).post(url).status_code == 404
    assert signed_in(make_member(project)).post(url).status_code == 403
    work()
    assert FileImport.objects.get().state == "ready" and not Prompt.objects.exists()


def test_a_waiting_file_can_be_cancelled(project, lead, folder):
    client = signed_in(lead)
    url = sent(client, project, line()).url
    client.post(url, {"cancel": "1"})
    work()
    assert FileImport.objects.get().state == "cancelled" and not list(folder.iterdir())
    assert "nothing to cancel" in client.post(url, {"cancel": "1"}, follow=True).content.decode()


def test_a_file_that_nobody_imports_within_a_day_is_deleted(project, lead, folder, monkeypatch):
    client = signed_in(lead)
    _, url = checked(client, project, line())
    monkeypatch.setattr(lifecycle, "RETENTION", timedelta(seconds=-1))
    lifecycle.delete_old_files()
    assert not list(folder.iterdir()) and FileImport.objects.get().state == "cancelled"
    assert "within a day" in client.get(url).content.decode()


# --- the meaning of columns ---

OWN_NAMES = "Frage;Antwort 1;Antwort 2;Rang 1;Rang 2\nWas?;Dies.;Das.;2;1\n"
MEANT = ["prompt", "response", "response", "rank", "rank"]


def meanings(*chosen: str) -> dict[str, str]:
    return {"map": "1", **{f"meaning-{number}": name for number, name in enumerate(chosen)}}


def test_unknown_columns_are_mapped_and_previewed_as_reviewers_see_them(project, lead):
    client = signed_in(lead)
    page, url = checked(client, project, OWN_NAMES, "a.csv")
    assert "No column looks like a prompt" in page.content.decode()
    assert FileImport.objects.get().state == "unclear" and ">Import</button>" not in str(
        page.content
    )
    client.post(url, meanings(*MEANT))
    work()
    text = client.get(url).content.decode()
    assert (
        '<p dir="auto">Dies.</p>' in text
        and "Ranking: B &gt; A" in text
        and ">Import</button>" in text
    )
    assert not Prompt.objects.exists()
    client.post(url)
    work()
    [ranking] = Task.objects.get().rankings.all()
    texts = dict(Response.objects.values_list("pk", "text"))
    assert [[texts[pk] for pk in tier] for tier in ranking.tiers] == [["Das."], ["Dies."]]


def test_another_encoding_can_be_chosen(project, lead):
    client = signed_in(lead)
    content = "prompt;response_1;response_2\nGr\u00f6\u00dfe?;x;y\n".encode("windows-1252")
    page, _ = checked(client, project, content, "a.csv")
    assert "choose the encoding on the import page" in page.content.decode()
    page, _ = checked(client, project, content, "a.csv", encoding="windows-1252")
    assert "Gr\u00f6\u00dfe?" in page.content.decode()


def test_the_next_file_with_the_same_columns_needs_no_mapping(project, lead):
    client = signed_in(lead)
    _, url = checked(client, project, OWN_NAMES, "a.csv")
    client.post(url, meanings(*MEANT))
    work()
    client.post(url)
    work()
    page, _ = checked(client, project, OWN_NAMES.replace("Was?", "Wie?"), "b.csv")
    assert ">Import</button>" in page.content.decode()
    elsewhere = make_project()
    page, _ = checked(signed_in(make_lead(elsewhere)), elsewhere, OWN_NAMES, "a.csv")
    assert "No column looks like a prompt" in page.content.decode()


def test_the_meaning_of_columns_can_be_changed_after_a_refusal_and_not_after_the_import(
    project, lead
):
    client = signed_in(lead)
    _, url = checked(client, project, OWN_NAMES, "a.csv")
    client.post(url, meanings("prompt", "response", "label", "metadata", "metadata"))
    work()
    assert "must be true or false" in client.get(url).content.decode()
    client.post(url, meanings(*MEANT))
    work()
    client.post(url)
    work()
    page = client.post(url, meanings(*MEANT), follow=True)
    assert "can no longer be changed" in page.content.decode()
    assert FileImport.objects.get().state == "imported"


def test_the_first_ten_problems_of_a_file_are_listed(project, lead):
    rows = [{"prompt": "", "response_1": "x", "response_2": "y"}] * 12
    content = "".join(json.dumps(item) + "\n" for item in [*rows, {**rows[0], "prompt": "Q?"}])
    page, _ = checked(signed_in(lead), project, content)
    text = page.content.decode()
    assert "Line 1: " in text and "Line 10: " in text and "Line 11: " not in text
    assert "There may be more." in text


def test_hostile_columns_and_texts_are_shown_as_text(project, lead):
    bad = "<script>alert(1)</script>"
    content = json.dumps({"prompt": bad, "response_1": bad, "response_2": "y", bad: bad})
    page, _ = checked(signed_in(lead), project, content)
    assert bad not in page.content.decode() and "&lt;script&gt;" in page.content.decode()


def test_recent_imports_are_listed(project, lead):
    client = signed_in(lead)
    imported(client, project, line(), name="letters.jsonl")
    page = client.get(reverse("project-import", args=[project.slug])).content.decode()
    assert "letters.jsonl" in page and "Imported" in page


# --- findings ------------------------------------------------------------------------------------


@pytest.fixture
def held(project, lead) -> Task:
    imported(signed_in(lead), project, line(responses=["So.", LEAK, "Thus."]))
    return Task.objects.get()


def test_findings_are_shown_and_counted_on_the_overview(project, lead, held):
    client = signed_in(lead)
    page = client.get(reverse("project-findings", args=[project.slug])).content.decode()
    assert "I am ChatGPT" in page and "Reveals its model" in page
    overview = client.get(reverse("project", args=[project.slug])).content.decode()
    assert "1 task held" in overview
    assert (
        "task held"
        not in signed_in(make_member(project))
        .get(reverse("project", args=[project.slug]))
        .content.decode()
    )


@pytest.mark.parametrize(
    ("choice", "texts"),
    [
        ("release", {"So.", LEAK, "Thus."}),
        ("dismiss", {"So.", LEAK, "Thus."}),
        ("drop", {"So.", "Thus."}),
    ],
)
def test_a_lead_decides(project, lead, held, choice, texts):
    client = signed_in(lead)
    number = held.pk if choice == "release" else Response.objects.get(text=LEAK).pk
    url = reverse("project-findings-decide", args=[project.slug])
    done = client.post(url, {choice: str(number)}, follow=True)
    assert "No findings" in done.content.decode()
    task = Task.objects.filter(pk__in=Slot.objects.values("task")).get()
    assert set(task.responses.values_list("text", flat=True)) == texts


def test_findings_of_another_project_cannot_be_decided(project, held):
    other = make_project()
    stranger = signed_in(make_lead(other))
    url = reverse("project-findings-decide", args=[other.slug])
    for choice, number in (("release", held.pk), ("drop", Response.objects.get(text=LEAK).pk)):
        stranger.post(url, {choice: str(number)})
    assert Finding.objects.get().dismissed_at is None and Task.objects.get().held


def test_hostile_excerpts_are_shown_as_text(project, lead):
    client = signed_in(lead)
    bad = "I am ChatGPT <script>alert(1)</script> and I like tea."
    imported(client, project, line(responses=["So.", bad]))
    page = client.get(reverse("project-findings", args=[project.slug])).content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_the_number_of_queries_of_the_findings_list_is_constant(
    project, lead, django_assert_max_num_queries
):
    client = signed_in(lead)
    content = io.StringIO()
    for n in range(30):
        content.write(line(f"{n}?", ["So.", LEAK]))
    imported(client, project, content.getvalue())
    with django_assert_max_num_queries(14):
        page = client.get(reverse("project-findings", args=[project.slug]))
    assert len(page.context["tasks"]) == 25 and page.context["after"]
