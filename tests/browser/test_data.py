"""Tests of importing a file, reviewing its findings, and exporting data."""

import json

import pytest
from playwright.sync_api import expect

from accounts.models import Role
from labeling.models import Membership, Ranking, Task
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.browser.test_pages import faults_in_both_themes
from tests.labeling.importing.file_imports import work
from tests.labeling.world import make_user, one_each

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def lead(world, settings, tmp_path):
    settings.UPLOADS_DIR = tmp_path / "uploads"
    user = make_user(Role.LEAD)
    Membership.objects.create(project=world.project, user=user, role=Membership.Role.LEAD)
    return user


def test_a_lead_imports_a_file_and_drops_a_response_that_reveals_its_model(
    visit, world, lead, tmp_path
):
    ask = [{"role": "user", "content": "Why does my lamp flicker?"}]
    texts = ["Check the bulb.", "I am ChatGPT, a language model.", "Unplug it first."]
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(json.dumps({"messages": ask, "responses": texts}))
    bad.write_text(good.read_text() + '\n{"messages": 3}')
    page = visit(f"/p/{world.project.slug}/data/", lead)
    page.get_by_role("link", name="Import", exact=True).click()
    page.get_by_label("File").set_input_files(bad)
    page.get_by_role("button", name="Preview").click()
    work()
    expect(page.get_by_role("alert")).to_contain_text("Line 2:")
    assert faults_in_both_themes(page) == []
    page.get_by_role("link", name="Another file").click()
    page.get_by_label("File").set_input_files(good)
    page.get_by_role("button", name="Preview").click()
    work()
    expect(page.get_by_text("1 new task would be held")).to_be_visible()
    assert faults_in_both_themes(page) == []
    page.get_by_role("button", name="Import", exact=True).click()
    work()
    expect(page.get_by_text("good.jsonl was imported")).to_be_visible()
    page.get_by_role("link", name="Findings").click()
    assert faults_in_both_themes(page) == []
    page.get_by_role("button", name="Drop response B").click()
    expect(page.get_by_role("heading", name="No findings")).to_be_visible()
    review = visit(world.review, world.reviewer)
    expect(review.locator(".answer")).to_have_count(2)
    expect(review.get_by_text("ChatGPT")).to_have_count(0)


def test_a_lead_maps_columns_and_undoes_a_wrong_import(visit, world, lead, tmp_path):
    (file := tmp_path / "lamps.csv").write_text(
        "Frage;Antwort 1;Antwort 2;Rang 1;Rang 2\nWelche Lampe?;Die hohe.;Die rote.;2;1\n"
    )
    page = visit(f"/p/{world.project.slug}/data/import/", lead)
    page.get_by_label("File").set_input_files(file)
    page.get_by_role("button", name="Preview").click()
    work()
    expect(page.get_by_text("No column looks like a prompt")).to_be_visible()
    for column, meaning in {
        "Frage": "prompt", "Antwort 1": "response", "Antwort 2": "response",
        "Rang 1": "score", "Rang 2": "score",
    }.items():  # fmt: skip
        page.get_by_label(f"Meaning of {column}").select_option(meaning)
    assert faults_in_both_themes(page) == []
    page.get_by_role("button", name="Check again with these meanings").click()
    work()
    expect(page.get_by_text("Ranking: A > B")).to_be_visible()
    expect(page.get_by_text("Die hohe.").first).to_be_visible()
    page.get_by_role("button", name="Import", exact=True).click()
    work()
    page.get_by_role("button", name="Undo this import").click()
    work()
    expect(page.get_by_text("This import was undone.")).to_be_visible()
    assert not Ranking.objects.filter(task__project=world.project).exists()
    page.get_by_role("link", name="Another file").click()
    page.get_by_label("File").set_input_files(file)
    page.get_by_role("button", name="Preview").click()
    work()
    for column in ("Rang 1", "Rang 2"):
        page.get_by_label(f"Meaning of {column}").select_option("rank")
    page.get_by_role("button", name="Check again with these meanings").click()
    work()
    expect(page.get_by_text("Ranking: B > A")).to_be_visible()
    assert faults_in_both_themes(page) == []
    page.get_by_role("button", name="Import", exact=True).click()
    work()
    expect(page.get_by_text("lamps.csv was imported")).to_be_visible()
    ranking = Ranking.objects.get(task__project=world.project)
    texts = dict(ranking.task.responses.values_list("pk", "text"))
    assert [texts[pk] for [pk] in ranking.tiers] == ["Die rote.", "Die hohe."]


def test_a_lead_counts_and_downloads_pairs(visit, world, lead, tmp_path):
    task: Task = world.add_task("The better one.", "The other.")
    recording.record(
        task=task, reviewer=world.reviewer, source="review", content=Content(one_each(task))
    )
    page = visit(f"/p/{world.project.slug}/data/export/", lead)
    page.get_by_label("TRL pairs: prompt").check()
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("row", name="Rows 1")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    file = tmp_path / "pairs.jsonl"
    download.value.save_as(file)
    [row] = [json.loads(line) for line in file.read_text().splitlines()]
    assert row["chosen"][0]["content"] == "The better one."
