"""Tests that texts about responses are shown with the letters of the page, highlighted."""

import html
import re

import pytest
from django.urls import reverse

from accounts.models import Role
from labeling.core.lettering import Lettering, letters_of, resolved
from labeling.disputes import adjudication
from labeling.gold import making
from labeling.models import Adjudication, Ranking, Skip
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.clients import signed_in
from tests.labeling.world import ids, key, make_member, make_project, make_task, make_user

pytestmark = pytest.mark.django_db


def words(page: str) -> str:
    """Return the page's text without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())


def ranked(task, order, rationale, reviewer=None):
    """Add a ranking by a reviewer who saw the responses in `order` and ranked them in it."""
    return recording.record(
        task=task,
        reviewer=reviewer or make_member(task.project),
        source=Ranking.Source.REVIEW,
        content=Content([[response] for response in order], rationale=rationale),
        shown_order=order,
    )[0]


def translated(rationale: str, written: list[int], here: list[int]) -> str:
    """Return `rationale` with the letters of a page; all its letters are references."""
    letters = letters_of(here)
    return re.sub(r"\b[A-C]\b", lambda match: letters[written["ABC".index(match[0])]], rationale)


@pytest.fixture
def lead():
    return make_user(Role.TRAINER)


@pytest.fixture
def task():
    return make_task(make_project(rankings_per_task=4, sees_others="always"), rankings_wanted=4)


SAYS = "C is best because it is safe, A is not."


def page_of(user, name, *args):
    answer = signed_in(user).get(reverse(name, args=args))
    assert answer.status_code == 200
    return answer.content.decode()


def check(page, written, here, says=SAYS):
    expected = translated(says, written, here)
    assert expected != says
    assert expected in words(page)
    for letter in re.findall(r"\b[A-C]\b", says):
        here_letter = letters_of(here)[written["ABC".index(letter)]]
        assert f'title="written as {letter}">{here_letter}</abbr>' in page
    assert says in words(page), "the text as written is on the page as well"


def test_the_task_page_shows_rationales_in_its_own_letters(task, lead):
    order = ids(task)[1:] + ids(task)[:1]
    ranked(task, order, SAYS)
    check(page_of(lead, "project-task", task.project.slug, task.pk), order, ids(task))


def test_the_dispute_page_shows_rationales_in_its_own_letters(task, lead):
    here = adjudication.order_for(task.pk, lead, ids(task))
    order = here[1:] + here[:1]
    ranked(task, order, SAYS)
    check(page_of(lead, "project-dispute", task.project.slug, task.pk), order, here)


def test_the_quality_page_shows_rationales_in_its_own_letters(task, lead):
    order = ids(task)[1:] + ids(task)[:1]
    ranked(task, order, SAYS)
    ranked(task, order[::-1], "")
    check(page_of(lead, "project-quality", task.project.slug), order, ids(task))


def test_reviewers_read_other_rankings_in_their_own_letters(task):
    own = ranked(task, ids(task), "")
    order = ids(task)[1:] + ids(task)[:1]
    ranked(task, order, SAYS)
    page = page_of(own.reviewer, "review-others", task.project.slug, own.pk)
    check(page, order, own.shown_order)


def test_the_ranking_page_shows_other_rationales_in_its_letters(task):
    reviewer = make_member(task.project)
    here = slots.claim(project=task.project, reviewer=reviewer).shown_order
    order = here[1:] + here[:1]
    ranked(task, order, SAYS)
    check(page_of(reviewer, "review", task.project.slug), order, here)


def test_the_gold_page_shows_rationales_in_its_own_letters(task, lead):
    a, b, _ = ids(task)
    result = making.make(task=task, constraints=[{"kind": "above", "a": a, "b": b}], by=lead)
    order = ids(task)[1:] + ids(task)[:1]
    ranked(result.task, order, SAYS)
    check(page_of(lead, "project-gold-detail", task.project.slug, result.pk), order, ids(task))


def test_the_explanation_of_a_training_task_uses_the_readers_letters(task, lead):
    a, b, _ = ids(task)
    result = making.make(
        task=task,
        constraints=[{"kind": "above", "a": a, "b": b}],
        purpose="training",
        explanation="**C** is best, A is not. Plan B was no option.",
        by=lead,
    )
    order = ids(task)[1:] + ids(task)[:1]
    own = ranked(result.task, order, "")
    page = page_of(own.reviewer, "review-feedback", task.project.slug, own.pk)
    there = letters_of(order)
    best, worst = there[ids(task)[2]], there[ids(task)[0]]
    assert f"{best} is best, {worst} is not. Plan B was no option." in words(page)
    assert f'<strong><abbr class="letter" title="written as C">{best}</abbr></strong>' in page


def test_the_note_of_a_decision_uses_the_readers_letters(task, lead):
    ranked(task, ids(task), "")
    ranked(task, ids(task)[::-1], "")
    other = next(
        user
        for user in (make_user(Role.TRAINER) for _ in range(50))
        if adjudication.order_for(task.pk, user, ids(task))
        != adjudication.order_for(task.pk, lead, ids(task))
    )
    written = adjudication.order_for(task.pk, lead, ids(task))
    here = adjudication.order_for(task.pk, other, ids(task))
    sent = {f"rank-{response}": str(n) for n, response in enumerate(ids(task), 1)}
    sent |= {"cause": "guideline", "note": "C is best.", "cut": "", "seen": ""}
    address = reverse("project-dispute", args=[task.project.slug, task.pk])
    signed_in(lead).post(address, sent)
    assert Adjudication.objects.get().shown_order == written
    note = translated("C is best.", written, here)
    page = page_of(other, "project-dispute", task.project.slug, task.pk)
    assert f">\n{note}</textarea>" in page
    assert note in words(page_of(other, "project-quality", task.project.slug))
    # Saved again by the other lead, the note is in their letters.
    current_mark = adjudication.mark(Adjudication.objects.get())
    signed_in(other).post(address, sent | {"note": note, "seen": current_mark, "cause": "close"})
    decided = Adjudication.objects.get()
    assert (decided.note, decided.shown_order if note != "C is best." else here) == (note, here)


def test_an_ambiguous_note_saved_unchanged_keeps_its_authors_letters(task, lead):
    written = adjudication.order_for(task.pk, lead, ids(task))
    others = written[1:] + written[:1]
    note = "Option C is right"
    adjudication.decide(
        task=task, by=lead, tiers=[ids(task)], cause="close", note=note, shown_order=others
    )
    page = page_of(lead, "project-dispute", task.project.slug, task.pk)
    assert f">\n{note}</textarea>" in page
    assert "The letters in this note are those that its author saw." in page
    sent = {f"rank-{response}": "1" for response in ids(task)}
    sent |= {"cause": "close", "cut": "", "seen": adjudication.mark(Adjudication.objects.get())}
    address = reverse("project-dispute", args=[task.project.slug, task.pk])
    signed_in(lead).post(address, sent | {"note": note})
    assert Adjudication.objects.get().shown_order == others


def test_the_note_of_a_skip_keeps_its_authors_letters(task, lead):
    reviewer = make_member(task.project)
    slot = slots.claim(project=task.project, reviewer=reviewer)
    order = ids(task)[1:] + ids(task)[:1]
    slots.skip(slot_id=slot.pk, reviewer=reviewer, reason="broken", note="C is cut off.")
    assert Skip.objects.get().shown_order == slot.shown_order
    Skip.objects.update(shown_order=order)
    page = page_of(lead, "project-task", task.project.slug, task.pk)
    check(page, order, ids(task), "C is cut off.")


def test_an_ambiguous_letter_is_shown_as_written_with_its_meaning(task, lead):
    order = ids(task)[1:] + ids(task)[:1]
    ranked(task, order, "Option C is <b>best</b>.")
    page = page_of(lead, "project-task", task.project.slug, task.pk)
    assert "Option C is &lt;b&gt;best&lt;/b&gt;." in page
    assert "<abbr" not in page
    assert "The author’s letters: A is B here, B is C here, C is A here" in words(page)


def test_the_same_order_needs_no_translation_and_no_mark(task, lead):
    ranked(task, ids(task), SAYS)
    page = page_of(lead, "project-task", task.project.slug, task.pk)
    assert SAYS in page
    assert "<abbr" not in page
    assert "author’s letters" not in page


def test_an_imported_rationale_without_an_order_is_shown_as_written_with_a_hint(task, lead):
    recording.record(
        task=task, reviewer=make_member(task.project), source=Ranking.Source.IMPORT,
        content=Content([[i] for i in ids(task)], rationale=SAYS),
    )  # fmt: skip
    page = page_of(lead, "project-task", task.project.slug, task.pk)
    assert SAYS in page
    assert "<abbr" not in page
    assert "was not recorded" in page


def test_the_stored_text_is_unchanged(task, lead):
    ranking = ranked(task, ids(task)[::-1], SAYS)
    page_of(lead, "project-task", task.project.slug, task.pk)
    ranking.refresh_from_db()
    assert ranking.rationale == SAYS


def test_a_reference_to_a_response_that_is_not_on_the_page_is_shown_as_written():
    note = Lettering({1: "A", 2: "B"}).show("C is best, A is not", [2, 1, 3])
    assert [part.text for part in note.parts] == ["C is best, A is not"]
    assert note.legend == [("A", "B"), ("B", "A"), ("C", "")]


def test_a_line_is_truncated_after_translating_letters():
    note = Lettering({1: "A", 2: "B"}).show("A is\n  better than B " + "x" * 50, [2, 1], limit=24)
    assert "".join(part.text for part in note.parts) == "B is better than A xxxx…"
    assert note.original.startswith("A is\n  better than B xxxx")


def test_a_rationale_in_a_file_names_the_position_of_each_response():
    places = {7: 0, 8: 1, 9: 2}
    assert resolved("C is best, plan B is not", [9, 8, 7], places, frozenset()) == (
        "C [0] is best, plan B is not"
    )
    assert resolved("option C", [9, 8, 7], places, frozenset()) == ""
    assert resolved("nothing", [9, 8, 7], places, frozenset()) == ""


def test_a_revision_keeps_the_order_its_letters_follow(task):
    reviewer = make_member(task.project)
    slot = slots.claim(project=task.project, reviewer=reviewer)
    first = recording.submit(
        slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), content=Content(rationale="C is best.", tiers=[[i] for i in ids(task)]),
    ).ranking  # fmt: skip
    second = recording.revise(
        ranking=first, reviewer=reviewer, idempotency_key=key(), content=Content(rationale="B is best.", tiers=[[i] for i in ids(task)[::-1]]),
    ).ranking  # fmt: skip
    assert first.shown_order == second.shown_order == slot.shown_order
