"""Tests of the pages on which leads write, compare and publish guidelines."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role
from labeling.guidelines import versions
from labeling.models import GuidelineVersion, Membership, Project
from tests.clients import signed_in
from tests.labeling.world import make_member, make_project, publish

pytestmark = pytest.mark.django_db

PAGES = ("edit", "preview", "publish", "delete", "draft")


@pytest.fixture
def project() -> Project:
    return make_project(published=False)


def address(project: Project, name: str) -> str:
    arguments = [project.slug, 1] if name == "draft" else [project.slug]
    return reverse(f"project-guideline-{name}", args=arguments)


def form(seen: str = "", text: str = "Be **brief**.", *criteria, **fields) -> dict[str, str]:
    """Return the fields of the page's form; `criteria` are (number, name, meaning, scale)."""
    values = {
        "seen": seen, "text": text, "change_note": "",
        "criteria-TOTAL_FORMS": str(len(criteria)), "criteria-INITIAL_FORMS": "0",
    }  # fmt: skip
    for index, row in enumerate(criteria):
        for name, value in zip(("ORDER", "name", "meaning", "scale"), row, strict=True):
            values[f"criteria-{index}-{name}"] = str(value)
    return values | fields


def seen_on(client: Client, project: Project) -> str:
    return client.get(address(project, "edit")).context["seen"]


def criteria_of(version: GuidelineVersion) -> list[tuple[int, str]]:
    return list(version.criteria.values_list("position", "name"))


# --- writing -------------------------------------------------------------------------------------


def test_the_first_version_is_written_previewed_and_published(lead_client, project, lead):
    overview = lead_client.get(reverse("project", args=[project.slug])).content.decode()
    assert address(project, "edit") in overview and "/admin/labeling/guideline" not in overview
    rows = [("", "honesty", "Says what is true.", 5), ("", "", "", 5)]
    answer = lead_client.post(
        address(project, "edit"), form("", "Be **brief**.", *rows, publish="1")
    )
    assert answer.url == address(project, "publish")
    draft = GuidelineVersion.objects.get()
    assert (draft.number, draft.state, draft.created_by) == (1, "draft", lead)
    assert criteria_of(draft) == [(1, "honesty")]
    page = lead_client.get(answer.url)
    assert "Be <strong>brief</strong>." in page.content.decode()
    lead_client.post(answer.url, {"seen": page.context["seen"]})
    project.refresh_from_db()
    assert project.current_version == draft
    assert AuditEntry.objects.get(action="guideline published").user == lead


def test_a_saved_draft_is_edited_again_and_criteria_are_numbered(lead_client, project):
    lead_client.post(
        address(project, "edit"), form("", "One.", ("", "a", "A.", 5), ("", "b", "B.", 5))
    )
    rows = [(2, "a", "A.", 3), (1, "b", "B.", 5), ("", "c", "C.", 10)]
    removed = {"criteria-2-DELETE": ""}
    lead_client.post(
        address(project, "edit"), form(seen_on(lead_client, project), "Two.", *rows, **removed)
    )
    draft = GuidelineVersion.objects.get()
    assert draft.text == "Two."
    assert criteria_of(draft) == [(1, "b"), (2, "a"), (3, "c")]
    removed = {"criteria-0-DELETE": "on", "criteria-INITIAL_FORMS": "3"}
    lead_client.post(
        address(project, "edit"), form(seen_on(lead_client, project), "Two.", *rows, **removed)
    )
    assert criteria_of(draft) == [(1, "b"), (2, "c")]
    emptied = {"criteria-INITIAL_FORMS": "2"}
    rows = [(1, "", "", 5), (2, "c", "C.", 10), (3, "", "", 5)]
    lead_client.post(
        address(project, "edit"), form(seen_on(lead_client, project), "Two.", *rows, **emptied)
    )
    assert criteria_of(draft) == [(1, "c")]


def test_a_new_version_starts_from_the_current_one_and_is_not_saved_yet(lead_client, project):
    publish(project, "Be kind.")
    page = lead_client.get(address(project, "edit"))
    assert "Be kind." in page.content.decode() and "honesty" in page.content.decode()
    assert GuidelineVersion.objects.count() == 1
    lead_client.post(address(project, "edit"), form("", "Be kinder."))
    assert GuidelineVersion.objects.get(number=2).text == "Be kinder."
    project.refresh_from_db()
    assert project.current_version.number == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text": ""}, "This field is required."),
        ({"criteria-0-name": "two words"}, "the name is a key"),
        ({"criteria-0-meaning": ""}, "This field is required."),
        ({"criteria-0-scale": "11"}, "From 2 to 10."),
        ({"criteria-0-scale": "1"}, "From 2 to 10."),
        ({"criteria-1-name": "honesty"}, "Another criterion is already called honesty."),
        ({"criteria-0-ORDER": "9" * 4301}, "Enter a whole number."),
        ({"criteria-TOTAL_FORMS": "x"}, "ManagementForm data is missing"),
        ({"criteria-TOTAL_FORMS": "21"}, "at most 20"),
    ],
)
def test_invalid_input_has_errors_and_is_kept(lead_client, project, changes, sentence):
    rows = [(1, "honesty", "True.", 5), (2, "brevity", "Short.", 5)]
    answer = lead_client.post(address(project, "edit"), form("", "Typed.", *rows) | changes)
    assert answer.status_code == 422
    assert sentence in answer.content.decode()
    assert "text" in changes or "Typed." in answer.content.decode()
    assert not GuidelineVersion.objects.exists()


def test_a_draft_saved_by_another_lead_is_not_overwritten_silently(lead_client, project):
    lead_client.post(address(project, "edit"), form("", "First."))
    fingerprint = seen_on(lead_client, project)
    other = signed_in(make_member(project, Role.LEAD))
    other.post(address(project, "edit"), form(fingerprint, "Theirs."))
    answer = lead_client.post(address(project, "edit"), form(fingerprint, "Mine."))
    assert answer.status_code == 422
    page = answer.content.decode()
    assert "Someone else saved this draft" in page and "Mine." in page
    assert GuidelineVersion.objects.get().text == "Theirs."
    lead_client.post(address(project, "edit"), form(answer.context["seen"], "Mine."))
    assert GuidelineVersion.objects.get().text == "Mine."


def test_input_is_kept_when_another_lead_publishes_the_draft(lead_client, project):
    lead_client.post(address(project, "edit"), form("", "First."))
    fingerprint = seen_on(lead_client, project)
    versions.publish(version=GuidelineVersion.objects.get(), by=None)
    answer = lead_client.post(address(project, "edit"), form(fingerprint, "Mine."))
    assert answer.status_code == 422 and "published or deleted" in answer.content.decode()
    lead_client.post(address(project, "edit"), form(answer.context["seen"], "Mine."))
    assert GuidelineVersion.objects.get(number=2).text == "Mine."
    assert GuidelineVersion.objects.get(number=1).text == "First."


def test_the_preview_matches_the_reviewers_page(lead_client, project):
    text = "**bold**\nsame line <script>alert(1)</script>"
    html = lead_client.post(address(project, "preview"), {"text": text}).content.decode()
    assert "<strong>bold</strong>\nsame line" in html and "<script>" not in html
    assert lead_client.get(address(project, "preview")).status_code == 405
    assert not GuidelineVersion.objects.exists()


# --- versions ------------------------------------------------------------------------------------


def test_a_draft_starts_from_any_version(lead_client, project):
    publish(project, "Be kind.")
    publish(project, "Be brief.")
    page = lead_client.get(reverse("project-guideline", args=[project.slug]), {"version": "1"})
    assert "New draft from this version" in page.content.decode()
    assert lead_client.get(address(project, "draft")).status_code == 405
    assert lead_client.post(address(project, "draft")).url == address(project, "edit")
    draft = GuidelineVersion.objects.get(state="draft")
    assert (draft.number, draft.text, draft.criteria.count()) == (3, "Be kind.", 1)
    again = lead_client.post(address(project, "draft"), follow=True).content.decode()
    assert "Version 3 is already a draft" in again
    assert GuidelineVersion.objects.count() == 3
    missing = reverse("project-guideline-draft", args=[project.slug, 9])
    assert lead_client.post(missing).status_code == 404


def test_drafts_can_be_deleted_and_published_versions_cannot(lead_client, project):
    publish(project)
    lead_client.post(address(project, "draft"))
    assert lead_client.get(address(project, "delete")).status_code == 405
    lead_client.post(address(project, "delete"))
    assert list(GuidelineVersion.objects.values_list("number", flat=True)) == [1]
    assert (
        "There is no draft."
        in lead_client.post(address(project, "delete"), follow=True).content.decode()
    )
    assert AuditEntry.objects.filter(action="guideline draft deleted").count() == 1


def test_publishing_shows_the_changes_first(lead_client, project):
    publish(project, "Answer in one line.")
    lead_client.post(address(project, "edit"), form("", "Answer in two lines."))
    page = lead_client.get(address(project, "publish")).content.decode()
    assert "Changes since version 1" in page and "<b>two</b>" in page
    assert "This version has no criteria" in page
    project.refresh_from_db()
    assert project.current_version.number == 1


def test_only_the_version_that_was_read_is_published(lead_client, project):
    lead_client.post(address(project, "edit"), form("", "Read."))
    fingerprint = lead_client.get(address(project, "publish")).context["seen"]
    GuidelineVersion.objects.update(text="Unread.")
    answer = lead_client.post(address(project, "publish"), {"seen": fingerprint}, follow=True)
    assert "The draft has changed since you opened this page" in answer.content.decode()
    assert GuidelineVersion.objects.get().state == "draft"
    lead_client.post(address(project, "publish"), {"seen": answer.context["seen"]})
    assert GuidelineVersion.objects.get().state == "published"


def test_nothing_is_published_without_a_draft_or_a_text(lead_client, project):
    answer = lead_client.get(address(project, "publish"), follow=True).content.decode()
    assert "There is no draft to publish." in answer
    versions.create_draft(project=project, by=None, text=" ", criteria=[])
    page = lead_client.get(address(project, "publish"))
    assert "cannot be published" in page.content.decode()
    lead_client.post(address(project, "publish"), {"seen": page.context["seen"]})
    assert GuidelineVersion.objects.get().state == "draft"


@pytest.mark.parametrize("name", PAGES)
def test_only_leads_of_the_project_write_its_guideline(project, name):
    versions.create_draft(project=project, by=None, text="Be kind.", criteria=[])
    elsewhere = make_member(make_project(), Membership.Role.LEAD)
    for person, status in ((make_member(project), 403), (elsewhere, 404)):
        lead_client = signed_in(person)
        assert lead_client.post(address(project, name), form("", "Mine.")).status_code == status
        assert lead_client.get(address(project, name)).status_code in {status, 405}
    assert Client().post(address(project, name)).url.startswith("/login/")
    draft = GuidelineVersion.objects.get(guideline__project=project)
    assert (draft.text, draft.state) == ("Be kind.", "draft")


# --- the admin -----------------------------------------------------------------------------------


def test_the_admin_numbers_criteria_and_offers_a_new_draft_on_its_list(lead_client, project):
    publish(project, "Be kind.")
    listing = lead_client.get(
        reverse("admin:labeling_guidelineversion_changelist")
    ).content.decode()
    version = GuidelineVersion.objects.get()
    draft_url = reverse("admin:labeling_guidelineversion_draft", args=[version.pk])
    assert f'formaction="{draft_url}">New draft from this version' in listing
    lead_client.post(draft_url, {"action": "", "csrfmiddlewaretoken": "x"})
    draft = GuidelineVersion.objects.get(state="draft")
    criterion = draft.criteria.get()
    rows = {
        "criteria-TOTAL_FORMS": "3", "criteria-INITIAL_FORMS": "1",
        "criteria-0-id": criterion.pk, "criteria-0-version": draft.pk, "criteria-0-position": "2",
        "criteria-0-name": "honesty", "criteria-0-meaning": "True.", "criteria-0-scale": "5",
        "criteria-1-version": draft.pk, "criteria-1-position": "",
        "criteria-1-name": "last", "criteria-1-meaning": "Last.", "criteria-1-scale": "5",
        "criteria-2-version": draft.pk, "criteria-2-position": "1",
        "criteria-2-name": "first", "criteria-2-meaning": "First.", "criteria-2-scale": "5",
    }  # fmt: skip
    page = reverse("admin:labeling_guidelineversion_change", args=[draft.pk])
    answer = lead_client.post(page, {"text": "Be kind.", "change_note": "", **rows})
    assert answer.status_code == 302, answer.context["errors"]
    assert criteria_of(draft) == [(1, "first"), (2, "honesty"), (3, "last")]
