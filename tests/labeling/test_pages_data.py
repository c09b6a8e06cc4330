"""The lead's pages around data: import, findings, and their way into the project's other pages."""

import io
import json
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role, User
from labeling import uploads
from labeling.models import Finding, Project, Prompt, Response, Slot, Task
from tests.labeling.test_findings import LEAK
from tests.labeling.test_pages_project import make_lead, signed_in
from tests.labeling.world import make_member, make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    return make_project()


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
    return client.post(url, {"file": file, "format": "auto", **fields})


# --- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["project-import", "project-findings", "project-export"])
def test_these_pages_are_for_leads(project, lead, name):
    url = reverse(name, args=[project.slug])
    assert signed_in(lead).get(url).status_code == 200
    assert signed_in(make_user(Role.TRAINER)).get(url).status_code == 200
    assert signed_in(make_member(project)).get(url).status_code == 403
    assert signed_in(make_lead(make_project())).get(url).status_code == 404
    assert Client().get(url).status_code == 302


def test_a_reviewer_can_neither_import_nor_decide(project, lead):
    reviewer = signed_in(make_member(project))
    assert sent(reviewer, project, line()).status_code == 403
    url = reverse("project-findings-decide", args=[project.slug])
    assert reviewer.post(url, {"release": "1"}).status_code == 403
    assert signed_in(lead).get(url).status_code == 405
    assert not Prompt.objects.exists()


# --- import --------------------------------------------------------------------------------------


def test_a_file_is_looked_at_before_anything_is_kept(project, lead, folder):
    client = signed_in(lead)
    there = sent(client, project, line() + line("Why?", ["Since."]))
    page = client.get(there.url)
    assert page.context["format"].name == "jsonl" and not Prompt.objects.exists()
    figures = {one.name: (one.read, one.new) for one in page.context["lines"]}
    assert figures["prompts"] == (2, 2) and figures["tasks"] == (1, 1)
    assert "1 lines with fewer than two responses (no task)" in page.content.decode()
    done = client.post(there.url, follow=True)
    assert "2 new prompts" in done.content.decode()
    assert Task.objects.filter(project=project).count() == 1
    assert AuditEntry.objects.get(action="file imported").user == lead
    assert not list(folder.iterdir())
    assert "no longer kept" in client.get(there.url, follow=True).content.decode()


def test_a_file_that_is_wrong_is_told_with_its_line_and_keeps_nothing(project, lead):
    client = signed_in(lead)
    there = sent(client, project, line() + '{"messages": 3}\n')
    page = client.get(there.url)
    assert "Line 2: " in page.context["problem"] and "Nothing was imported" in page.content.decode()
    assert client.post(there.url).url == there.url
    assert not Prompt.objects.exists()
    odd = client.get(sent(client, project, "hm", "a.txt").url)
    assert "a.txt" in odd.context["problem"] or "no JSON" in odd.context["problem"]


def test_what_is_there_already_cannot_be_imported_again(project, lead):
    client = signed_in(lead)
    client.post(sent(client, project, line()).url)
    page = client.get(sent(client, project, line()).url)
    assert (
        "adds nothing" in page.content.decode() and ">Import</button>" not in page.content.decode()
    )


def test_it_says_which_tasks_would_be_held(project, lead):
    client = signed_in(lead)
    page = client.get(sent(client, project, line(responses=["So.", LEAK])).url)
    assert "1 new task would be held" in page.content.decode() and not Finding.objects.exists()


def test_the_file_may_not_be_too_large(project, lead, monkeypatch, folder):
    monkeypatch.setattr("labeling.views.imports.LARGEST", 10)
    page = sent(signed_in(lead), project, line())
    assert "manage.py import_data" in page.content.decode() and not folder.exists()


def test_ratings_of_other_criteria_are_kept_when_asked(project, lead):
    client = signed_in(lead)
    ranked = line(rankings=[{"reviewer": "ada", "tiers": [[0], [1]], "ratings": {"0": {"wit": 7}}}])
    assert "no criterion" in client.get(sent(client, project, ranked).url).context["problem"]
    client.post(sent(client, project, ranked, any_criteria="on").url)
    [ranking] = Task.objects.get().rankings.all()
    assert list(ranking.ratings.values()) == [{"wit": 7}]


def test_an_upload_belongs_to_one_person_and_one_project(project, lead):
    there = sent(signed_in(lead), project, line()).url
    other = make_lead(project)
    assert signed_in(other).post(there).url == reverse("project-import", args=[project.slug])
    elsewhere = make_project()
    make = signed_in(make_user(Role.TRAINER))
    assert make.post(there.replace(project.slug, elsewhere.slug)).status_code == 302
    assert not Prompt.objects.exists()


def test_uploads_nobody_came_back_for_are_deleted(project, lead, folder, monkeypatch):
    client = signed_in(lead)
    first = sent(client, project, line()).url
    monkeypatch.setattr(uploads, "KEPT_SECONDS", -1)
    sent(client, project, line("Why?"))
    assert len(list(folder.iterdir())) == 2
    assert client.get(first).status_code == 302


# --- findings ------------------------------------------------------------------------------------


@pytest.fixture
def held(project, lead) -> Task:
    client = signed_in(lead)
    client.post(sent(client, project, line(responses=["So.", LEAK, "Thus."])).url)
    return Task.objects.get()


def test_findings_are_shown_and_counted_on_the_overview(project, lead, held):
    client = signed_in(lead)
    page = client.get(reverse("project-findings", args=[project.slug])).content.decode()
    assert "I am ChatGPT" in page and "Says which model it is" in page
    overview = client.get(reverse("project", args=[project.slug])).content.decode()
    assert "1 task held back" in overview
    assert (
        "held back"
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
    assert "Nothing waits for you" in done.content.decode()
    given = Task.objects.filter(pk__in=Slot.objects.values("task")).get()
    assert set(given.responses.values_list("text", flat=True)) == texts


def test_findings_of_another_project_stay(project, held):
    other = make_project()
    stranger = signed_in(make_lead(other))
    url = reverse("project-findings-decide", args=[other.slug])
    for choice, number in (("release", held.pk), ("drop", Response.objects.get(text=LEAK).pk)):
        stranger.post(url, {choice: str(number)})
    assert Finding.objects.get().dismissed_at is None and Task.objects.get().held


def test_hostile_excerpts_are_shown_as_text(project, lead):
    client = signed_in(lead)
    bad = "I am ChatGPT <script>alert(1)</script> and I like tea."
    client.post(sent(client, project, line(responses=["So.", bad])).url)
    page = client.get(reverse("project-findings", args=[project.slug])).content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;" in page


def test_the_list_of_findings_costs_the_same_however_many(
    project, lead, django_assert_max_num_queries
):
    client = signed_in(lead)
    content = io.StringIO()
    for n in range(30):
        content.write(line(f"{n}?", ["So.", LEAK]))
    client.post(sent(client, project, content.getvalue()).url)
    with django_assert_max_num_queries(14):
        page = client.get(reverse("project-findings", args=[project.slug]))
    assert len(page.context["tasks"]) == 25 and page.context["after"]
