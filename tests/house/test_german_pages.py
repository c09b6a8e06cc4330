"""Tests that the reviewers' pages in German contain no English sentence."""

import html
import re

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Role
from labeling.models import Ranking
from labeling.projects import invitations
from labeling.projects.invitations import InvitationForm
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.statistics import agreement
from labeling.templatetags import numbers
from runs.models import Run
from tests import messages
from tests.labeling.pages.test_pages_review import Desk
from tests.labeling.world import ids, make_member, make_task, make_user

pytestmark = pytest.mark.django_db

ENGLISH = re.compile(r"\b(the|of|and|is|are|you|your|with|this|that|from|not|has|have)\b", re.I)
OURS = re.compile(r"<(script|style)\b.*?</\1>|<div class=\"prose.*?</div>", re.DOTALL)


def words_of(page: str) -> str:
    """Return the text of a page and its labels, without texts of models and leads."""
    body = OURS.sub(" ", page)
    labels = " | ".join(re.findall(r'(?:title|aria-label|placeholder|alt)="([^"]*)"', body))
    return html.unescape(re.sub(r"<[^>]+>", " | ", body) + " | " + labels)


def english_sentences() -> set[str]:
    """Return the English of all translated sentences with three words or more and no placeholder."""
    names = set()
    for message in messages.read("django", "de"):
        for text in messages.texts(message.id) if message.id else ():
            if len(text.split()) > 2 and not re.search(r"%\(|<|&", text):
                names.add(" ".join(text.split()))
    return names


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    make_task(desk.project)
    return desk


def pages(desk: Desk, client: Client) -> dict[str, str]:
    names = ["project", "project-guideline", "review", "review-next", "review-history"]
    result = {name: client.get(desk.url(name)).text for name in names}
    task = desk.task
    ranking = Ranking.objects.create(
        task=task,
        reviewer=desk.reviewer,
        tiers=[[pk] for pk in ids(task)],
        shown_order=ids(task),
        source="review",
        guideline_version=desk.project.current_version,
    )
    result["history"] = client.get(desk.url("review-history")).text
    result["revise"] = client.get(desk.url("review-ranking", ranking.pk)).text
    for name in ("home", "projects", "login"):
        result[name] = client.get(reverse(name)).text
    result["profile"] = client.get(reverse("profile")).text
    result["reset"] = client.get(reverse("reset-password")).text
    invitation = {"role": "reviewer", "max_uses": 1, "days": 1}
    form = InvitationForm(invitation, project=desk.project, by=None)
    assert form.is_valid()
    link = invitations.create(form=form)[1]
    result["invitation"] = client.get(link).text
    stranger = Client()
    stranger.cookies["django_language"] = "de"
    result["join"] = stranger.get(link).text
    result["no invitation"] = stranger.get(reverse("invitation", args=["none"])).text
    result["refused"] = client.get("/runs/").text
    result["missing"] = client.get("/nowhere/").text
    return result


def test_no_reviewer_page_mixes_languages(desk: Desk) -> None:
    client = desk.as_(desk.reviewer)
    client.cookies["django_language"] = "de"
    sentences = english_sentences()
    for name, page in pages(desk, client).items():
        text = " ".join(words_of(page).split())
        assert not [sentence for sentence in sentences if sentence in text], name
        left = [part for part in text.split(" | ") if len(ENGLISH.findall(part)) > 1]
        assert left == [], name


def test_leads_see_figures_and_states_in_german_on_translated_pages(desk: Desk) -> None:
    client = desk.as_(make_user(Role.TRAINER))
    client.cookies["django_language"] = "de"
    unknown = client.get(reverse("home")).text
    assert "keine zwei Bewertenden dieselben Antworten" in unknown
    for reviewer in (desk.reviewer, make_member(desk.project)):
        content = Content([[pk] for pk in ids(desk.task)])
        recording.record(task=desk.task, reviewer=reviewer, source="review", content=content)
    Run.objects.create(kind="reward")
    home, overview = (client.get(url).text for url in ("/", desk.url("project")))
    assert "Wartet" in home and "Queued" not in home
    assert "100,0\xa0%" in home and "100,0\xa0%" in overview
    assert "Letzte Rangfolge" in overview and "Last ranking" not in overview


def test_each_reason_for_a_missing_agreement_is_translated() -> None:
    assert set(numbers.REASONS) == {agreement.NO_COMPARISON, agreement.NO_STRICT}
