import json
import re
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Role
from labeling.models import (
    MAX_RATIONALE_LENGTH,
    GuidelineConfirmation,
    Membership,
    Project,
    Ranking,
    Skip,
    Slot,
    Task,
)
from labeling.queue import slots
from labeling.rankings.forms import read_draft
from tests.labeling.world import ids, make_member, make_project, make_task, make_user, publish

pytestmark = pytest.mark.django_db


class Desk:
    """Create a project with one task, and sign in two reviewers and a stranger."""

    def __init__(self) -> None:
        self.project: Project = make_project()
        self.task: Task = make_task(self.project)
        self.reviewer, self.other = make_member(self.project), make_member(self.project)
        self.stranger = make_user()

    def as_(self, user) -> Client:
        client = Client()
        client.force_login(user)
        return client

    def url(self, name: str, *args: object) -> str:
        return reverse(name, args=[self.project.slug, *args])

    def answer(self, slot: Slot, ranks=(1, 2, 2), **fields) -> dict[str, object]:
        by_rank = zip(ids(slot.task), ranks, strict=True)
        return {
            "slot": slot.pk,
            "shown_order": ",".join(map(str, slot.shown_order)),
            "idempotency_key": str(uuid4()),
            "active_seconds": "12.5",
            "cut": "1",
            **{f"rank-{response}": str(rank) for response, rank in by_rank},
            **fields,
        }


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def slot(desk: Desk) -> Slot:
    desk.as_(desk.reviewer).get(desk.url("review"))
    return Slot.objects.get(reviewer=desk.reviewer)


# --- showing ---------------------------------------------------------------------------------------


def test_a_slot_is_leased_and_shown_in_the_stored_order(desk):
    page = desk.as_(desk.reviewer).get(desk.url("review"))
    slot = Slot.objects.get(reviewer=desk.reviewer)
    assert [card.id for card in page.context["sheet"].cards] == slot.shown_order
    assert slot.shown_at is not None
    assert "no-store" in page["Cache-Control"]


def test_the_page_shows_no_model_names_and_no_other_order(desk):
    page = desk.as_(desk.reviewer).get(desk.url("review"))
    assert "model-" not in page.content.decode()
    assert {card.rank for card in page.context["sheet"].cards} == {""}


def test_anonymous_visitors_sign_in_and_non_members_get_404(desk):
    for name in ("review", "review-history", "project", "project-guideline"):
        response = Client().get(desk.url(name))
        assert response.status_code == 302 and response.url.startswith("/login/")
        assert desk.as_(desk.stranger).get(desk.url(name)).status_code == 404
    assert not Slot.objects.filter(reviewer__isnull=False).exists()


def test_no_task_is_assigned_before_a_guideline_is_published(desk):
    project = make_project(published=False)
    make_task(project)
    reviewer = make_member(project)
    page = desk.as_(reviewer).get(reverse("review", args=[project.slug]))
    assert b"has no guideline yet" in page.content
    assert not Slot.objects.filter(reviewer=reviewer).exists()


def test_the_number_of_queries_does_not_grow_with_responses(desk):
    counts = []
    for responses in (2, 9):
        project = make_project()
        make_task(project, responses=responses)
        client = desk.as_(make_member(project))
        with CaptureQueriesContext(connection) as queries:
            page = client.get(reverse("review", args=[project.slug]))
        assert len(page.context["sheet"].cards) == responses
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 21


# --- sending ---------------------------------------------------------------------------------------


def test_a_too_long_rationale_has_an_error_and_is_kept(desk, slot):
    written = "x" * (MAX_RATIONALE_LENGTH + 1)
    page = desk.as_(desk.reviewer).post(desk.url("review"), desk.answer(slot, rationale=written))
    assert page.status_code == 422 and not Ranking.objects.exists()
    assert page.context["sheet"].rationale == written
    html = page.content.decode()
    [error] = re.findall(r'id="rationale-error">(.+?)</p>', html)
    assert error.startswith("A rationale has at most 20000 characters; this one has 20001.")
    assert "maxlength" not in re.findall(r"<textarea name=.rationale[^>]*>", html)[0]


def test_the_longest_rationale_is_accepted_and_can_be_required(desk, slot):
    Project.objects.update(min_rationale=MAX_RATIONALE_LENGTH)
    data = desk.answer(slot, rationale="é" * MAX_RATIONALE_LENGTH)
    assert desk.as_(desk.reviewer).post(desk.url("review"), data).status_code == 302
    assert len(Ranking.objects.get().rationale) == MAX_RATIONALE_LENGTH


def test_a_form_is_stored_and_the_next_task_follows(desk, slot):
    first, second, third = ids(desk.task)
    fields = {f"rating-{first}-honesty": "4", f"flag-{second}": ["unsafe"], "rationale": "Kind."}
    sent = desk.as_(desk.reviewer).post(desk.url("review"), desk.answer(slot, **fields))
    assert (sent.status_code, sent.url) == (302, desk.url("review"))
    ranking = Ranking.objects.get()
    assert [sorted(tier) for tier in ranking.tiers] == [[first], sorted([second, third])]
    assert (ranking.cut, ranking.active_seconds, ranking.rationale) == (1, 12.5, "Kind.")
    assert ranking.ratings == {str(first): {"honesty": 4}}
    assert ranking.flags == {str(second): ["unsafe"]}
    assert ranking.shown_order == slot.shown_order


def test_ranks_may_have_gaps_and_a_line_between_them(desk, slot):
    data = desk.answer(slot, ranks=(9, 3, 3), cut="5")
    desk.as_(desk.reviewer).post(desk.url("review"), data)
    first, second, third = ids(desk.task)
    ranking = Ranking.objects.get()
    assert [sorted(tier) for tier in ranking.tiers] == [sorted([second, third]), [first]]
    assert ranking.cut == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rank-last": ""}, "Not ranked yet"),
        ({"rank-last": "0"}, "Not ranked yet"),
        ({"rank-last": "first"}, "Not ranked yet"),
        ({"cut": "low"}, "Choose the rank above the line"),
        ({"rating-first-honesty": "11"}, "goes from 1 to 5"),
        ({"idempotency_key": "again"}, "incomplete"),
    ],
)
def test_errors_are_explained_and_input_is_kept(desk, slot, changes, sentence):
    first, *_, last = ids(desk.task)
    named = {
        name.replace("last", str(last)).replace("first", str(first)): value
        for name, value in changes.items()
    }
    data = desk.answer(slot, rationale="I thought about it", **named)
    page = desk.as_(desk.reviewer).post(desk.url("review"), data)
    assert page.status_code == 422
    assert sentence in page.content.decode()
    assert page.context["sheet"].rationale == "I thought about it"
    assert not Ranking.objects.exists()


def test_a_form_sent_twice_makes_one_ranking(desk, slot):
    data, client = desk.answer(slot), desk.as_(desk.reviewer)
    assert client.post(desk.url("review"), data).status_code == 302
    assert client.post(desk.url("review"), data).status_code == 302
    assert Ranking.objects.count() == 1


def test_slots_of_other_projects_and_strangers_are_refused(desk, slot):
    elsewhere = make_project()
    make_task(elsewhere)
    foreign = slots.claim(project=elsewhere, reviewer=make_member(elsewhere))
    assert desk.as_(desk.reviewer).post(desk.url("review"), desk.answer(foreign)).status_code == 404
    assert desk.as_(desk.stranger).post(desk.url("review"), desk.answer(slot)).status_code == 404
    assert desk.as_(desk.reviewer).post(desk.url("review"), {"slot": "x"}).status_code == 404
    assert not Ranking.objects.exists()


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_the_sheet_of_another_reviewers_slot_is_not_shown(desk, slot, accept):
    tasks = [make_task(desk.project, rankings_wanted=2) for _ in range(3)]
    slots.claim(project=desk.project, reviewer=desk.other)
    for user in (desk.other, make_member(desk.project, "lead"), make_user(Role.TRAINER)):
        client = desk.as_(user)
        for number in Slot.objects.exclude(reviewer=user).values_list("pk", flat=True):
            for form in ({"slot": number}, {"slot": number, "idempotency_key": str(uuid4())}):
                reply = client.post(desk.url("review"), form, headers={"accept": accept})
                assert reply.status_code == 404
                assert b"Answer" not in reply.content and b"Question" not in reply.content
    assert len(tasks) == 3 and not Ranking.objects.exists()


def test_a_reviewer_with_an_expired_lease_keeps_the_sheet(desk, slot):
    slots.release(slot_id=slot.pk, reviewer=desk.reviewer)
    Slot.objects.exclude(pk=slot.pk).delete()
    assert slots.claim(project=desk.project, reviewer=desk.other) == slot
    reply = desk.as_(desk.reviewer).post(desk.url("review"), {"slot": slot.pk})
    assert reply.status_code == 422 and b"Answer 1" in reply.content


def test_a_lease_cannot_be_used_through_another_project(desk, slot):
    second = make_project()
    Membership.objects.create(project=second, user=desk.reviewer)
    Membership.objects.filter(project=desk.project, user=desk.reviewer).delete()
    before = Slot.objects.filter(pk=slot.pk).values()[0]
    client = desk.as_(desk.reviewer)
    draft = json.dumps({"fields": {"rationale": ["Kept."]}, "at": 1})
    for name, sent in (
        ("review-skip", {"data": {"reason": "unclear"}}),
        ("review-renew", {}),
        ("review-draft", {"data": draft, "content_type": "application/json"}),
    ):
        reply = client.post(reverse(name, args=[second.slug, slot.pk]), **sent)
        assert reply.status_code in {302, 409}
        assert client.post(desk.url(name, slot.pk), **sent).status_code == 404
    assert Slot.objects.filter(pk=slot.pk).values()[0] == before and not Skip.objects.exists()


def test_text_that_postgresql_cannot_store_is_replaced(desk, slot):
    data = desk.answer(slot, rationale="a\x00b")
    assert desk.as_(desk.reviewer).post(desk.url("review"), data).status_code == 302
    assert Ranking.objects.get().rationale == "a\ufffdb"


def test_a_submit_needs_the_csrf_token(desk, slot):
    client = Client(enforce_csrf_checks=True)
    client.force_login(desk.reviewer)
    assert client.post(desk.url("review"), desk.answer(slot)).status_code == 403
    assert not Ranking.objects.exists()


# --- skipping, drafts, renewing --------------------------------------------------------------------


def test_skipping_requires_a_reason(desk, slot):
    client, url = desk.as_(desk.reviewer), desk.url("review-skip", slot.pk)
    client.post(url, {})
    assert not Skip.objects.exists()
    client.post(url, {"reason": "guideline", "note": "Nothing on lanterns."})
    skipped = Skip.objects.get()
    assert (skipped.reason, skipped.note) == ("guideline", "Nothing on lanterns.")
    assert b"No tasks left" in client.get(desk.url("review")).content


def test_a_too_long_note_of_a_skip_has_an_error_and_is_kept(desk, slot):
    client, url = desk.as_(desk.reviewer), desk.url("review-skip", slot.pk)
    page = client.post(url, {"reason": "guideline", "note": "x" * 501})
    assert page.status_code == 422 and not Skip.objects.exists()
    html = page.content.decode()
    assert "at most 500 characters" in html and "x" * 501 in html
    assert re.search(r'<dialog[^>]*id="skip-dialog"[^>]* open>', html)
    assert f'action="{desk.url("review")}"' in html  # the ranking form has its own address
    assert "maxlength" not in html


@pytest.mark.parametrize("name", ["review-skip", "review-draft", "review-renew"])
def test_other_people_and_get_requests_change_nothing(desk, slot, name):
    url, body = desk.url(name, slot.pk), json.dumps({"fields": {"rationale": ["mine"]}, "at": 1})
    assert desk.as_(desk.reviewer).get(url).status_code == 405
    assert desk.as_(desk.stranger).post(url, {"reason": "other"}).status_code == 404
    before = Slot.objects.get(pk=slot.pk)
    if name == "review-skip":
        desk.as_(desk.other).post(url, {"reason": "other"})
    else:
        answer = desk.as_(desk.other).post(url, body, content_type="application/json")
        assert answer.status_code == 409
    after = Slot.objects.get(pk=slot.pk)
    assert (after.reviewer_id, after.draft) == (before.reviewer_id, before.draft)
    assert not Skip.objects.exists()


def test_a_draft_is_stored_and_shown_again(desk, slot):
    first = ids(desk.task)[0]
    draft = {"fields": {f"rank-{first}": ["2"], "cut": ["0"]}, "at": 1700, "active_seconds": 31}
    client = desk.as_(desk.reviewer)
    response = client.post(
        desk.url("review-draft", slot.pk), json.dumps(draft), content_type="application/json"
    )
    assert response.status_code == 204
    page = client.get(desk.url("review"))
    sheet = page.context["sheet"]
    assert {card.id: card.rank for card in sheet.cards}[first] == "2"
    assert (sheet.cut, sheet.active_seconds, page.context["draft_at"]) == ("0", "31.0", 1700)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"fields": []}', b"[" * 100_000, b'{"fields": {}}' + b" " * 200_000],
)
def test_an_invalid_draft_is_refused(desk, slot, body):
    url = desk.url("review-draft", slot.pk)
    answer = desk.as_(desk.reviewer).post(url, body, content_type="application/json")
    assert answer.status_code == 400
    assert Slot.objects.get(pk=slot.pk).draft is None


def test_a_draft_keeps_only_known_fields():
    draft = {"fields": {"cut": ["1", 2, None], "x": "y", "\ud800": ["\x00"]}, "at": 1e300}
    assert read_draft(json.dumps(draft).encode()) == {
        "fields": {"cut": ["1"], "\ufffd": ["\ufffd"], "active_seconds": ["0.0"]},
        "at": 0,
    }


def test_only_the_holder_renews_a_lease(desk, slot):
    assert desk.as_(desk.reviewer).post(desk.url("review-renew", slot.pk)).status_code == 204
    assert Slot.objects.get(pk=slot.pk).leased_until > slot.leased_until


# --- own history -----------------------------------------------------------------------------------


def test_reviewers_list_and_revise_only_their_own_rankings(desk, slot):
    client = desk.as_(desk.reviewer)
    client.post(desk.url("review"), desk.answer(slot))
    ranking = Ranking.objects.get()
    [row] = client.get(desk.url("review-history")).context["rows"]
    assert row["ranking"] == ranking
    assert not desk.as_(desk.other).get(desk.url("review-history")).context["rows"]
    url = desk.url("review-ranking", ranking.pk)
    shown = {card.id: card.rank for card in client.get(url).context["sheet"].cards}
    assert [shown[i] for i in ids(desk.task)] == ["1", "2", "2"]
    changed = client.post(url, desk.answer(slot, ranks=(3, 2, 1), cut=""))
    assert changed.status_code == 302
    newest = Ranking.objects.get(superseded_at=None)
    assert (newest.supersedes_id, newest.cut) == (ranking.pk, None)
    assert newest.tiers == [[i] for i in ids(desk.task)[::-1]]


def test_another_reviewers_ranking_cannot_be_shown_or_revised(desk, slot):
    desk.as_(desk.reviewer).post(desk.url("review"), desk.answer(slot))
    ranking = Ranking.objects.get()
    url = desk.url("review-ranking", ranking.pk)
    for user in (desk.other, desk.stranger, make_user(Role.TRAINER)):
        assert desk.as_(user).get(url).status_code == 404
        assert desk.as_(user).post(url, desk.answer(slot, ranks=(3, 2, 1))).status_code == 404
    assert Ranking.objects.count() == 1


def test_a_reviewer_of_one_project_is_redirected_to_its_tasks(desk):
    client = desk.as_(desk.reviewer)
    assert client.get(reverse("start-review")).url == desk.url("review")
    assert desk.as_(desk.stranger).get(reverse("start-review")).url == reverse("home")


# --- in JSON, as the script asks -------------------------------------------------------------------

JSON = {"HTTP_ACCEPT": "application/json"}


def send(client: Client, desk: Desk, slot: Slot, shown: object = "", **fields):
    data = desk.answer(slot, shown=str(shown), **fields)
    return client.post(desk.url("review"), data, **JSON)


def test_a_submit_returns_the_sheet_that_the_page_does_not_have(desk, slot):
    second, third = make_task(desk.project), make_task(desk.project)
    client = desk.as_(desk.reviewer)
    prepared = client.get(desk.url("review-next"))
    ahead = Slot.objects.get(ahead=True)
    assert f'data-slot="{ahead.pk}"' in prepared.content.decode()
    assert (ahead.task, ahead.shown_at) == (second, None)
    reply = send(client, desk, slot, shown=ahead.pk).json()
    ahead.refresh_from_db()
    assert ahead.shown_at and not ahead.ahead
    further = Slot.objects.get(ahead=True)
    assert (further.task, further.shown_at) == (third, None)
    assert f'data-slot="{further.pk}"' in reply["sheet"]
    assert "<strong>1</strong> done today" in reply["progress"]
    assert reply["undo"] == desk.url("review-undo", Ranking.objects.get().pk)
    assert (reply["message"], reply["confirm"]) == ("", False)


def test_a_sheet_sent_to_an_empty_page_counts_as_shown(desk, slot):
    make_task(desk.project)
    reply = send(desk.as_(desk.reviewer), desk, slot).json()
    current = Slot.objects.get(leased_until__isnull=False)
    assert f'data-slot="{current.pk}"' in reply["sheet"] and current.shown_at
    reply = send(desk.as_(desk.reviewer), desk, current).json()
    assert reply["sheet"] is None


def test_a_sheet_whose_lease_was_lost_is_not_marked_and_the_new_one_comes_next(desk, slot):
    make_task(desk.project)
    reply = send(desk.as_(desk.reviewer), desk, slot, shown=10**9).json()
    current = Slot.objects.get(leased_until__isnull=False)
    assert f'data-slot="{current.pk}"' in reply["sheet"] and current.shown_at is None


def test_a_json_error_contains_the_sheet_with_its_input(desk, slot):
    reply = send(desk.as_(desk.reviewer), desk, slot, cut="low", rationale="I thought about it")
    assert reply.status_code == 422
    assert list(reply.json()["errors"]) == ["cut"]
    assert "I thought about it" in reply.json()["sheet"]
    assert not Ranking.objects.exists()


def test_no_sheet_is_prefetched_without_access_task_or_confirmation(desk):
    client, url = desk.as_(desk.reviewer), desk.url("review-next")
    assert desk.as_(desk.stranger).get(url).status_code == 404
    assert client.get(url).status_code == 204  # nothing is being read
    client.get(desk.url("review"))
    assert client.get(url).status_code == 204  # there is no second task
    make_task(desk.project)
    publish(desk.project, "Be brief.")
    unprepared = client.get(url)
    assert unprepared.status_code == 204 and unprepared["X-CSRFToken"]
    assert not Slot.objects.filter(ahead=True).exists()


def test_the_number_of_queries_of_a_submit_is_bounded(desk, slot):
    make_task(desk.project)
    make_task(desk.project)
    client = desk.as_(desk.reviewer)
    client.get(desk.url("review-next"))
    ahead = Slot.objects.get(ahead=True)
    with CaptureQueriesContext(connection) as queries:
        assert send(client, desk, slot, shown=ahead.pk).status_code == 200
    assert len(queries) <= 36


# --- taking back, confirming -----------------------------------------------------------------------


def test_a_submit_can_be_undone_by_form_and_json(desk, slot):
    client = desk.as_(desk.reviewer)
    for headers in ({}, JSON):
        client.post(desk.url("review"), desk.answer(slot, rationale="Hm."))
        ranking = Ranking.objects.get(superseded_at=None)
        url = desk.url("review-undo", ranking.pk)
        assert client.get(url).status_code == 405
        assert desk.as_(desk.other).post(url).status_code == 404
        assert desk.as_(desk.stranger).post(url).status_code == 404
        taken = client.post(url, **headers)
        if headers:
            assert f'data-slot="{slot.pk}"' in taken.json()["sheet"]
            assert client.post(url, **headers).status_code == 409
        else:
            assert taken.url == desk.url("review")
            assert b"too late" in client.post(url, follow=True).content
        sheet = client.get(desk.url("review")).context["sheet"]
        assert {card.id: card.rank for card in sheet.cards} == dict(
            zip(ids(desk.task), "122", strict=True)
        )
        assert (sheet.cut, sheet.rationale) == ("1", "Hm.")
        slot.refresh_from_db()


def test_an_undone_ranking_is_not_counted(desk, slot):
    client = desk.as_(desk.reviewer)
    for _ in range(2):
        assert "<strong>1</strong> done today" in send(client, desk, slot).json()["progress"]
        url = desk.url("review-undo", Ranking.objects.get(superseded_at=None).pk)
        assert "<strong>0</strong> done today" in client.post(url, **JSON).json()["progress"]


def test_the_guideline_is_confirmed_before_a_slot_is_leased(desk):
    newcomer = make_member(desk.project, confirmed=False)
    client = desk.as_(newcomer)
    page = client.get(desk.url("review"))
    assert "Before you start" in page.content.decode()
    assert not Slot.objects.filter(reviewer=newcomer).exists()
    version = desk.project.current_version_id
    url, data = desk.url("review-guideline"), {"version": version, "next": desk.url("review")}
    assert client.get(url).status_code == 405
    assert desk.as_(desk.stranger).post(url, data).status_code == 404
    assert client.post(url, {"version": version + 1}).status_code == 404
    assert client.post(url, {"version": "x"}).status_code == 404
    for _ in range(2):
        assert client.post(url, data).url == desk.url("review")
    assert client.post(url, {**data, "next": "//evil.test/"}).url == desk.url("review")
    assert GuidelineConfirmation.objects.filter(reviewer=newcomer).count() == 1
    assert client.get(desk.url("review")).context["sheet"]


def test_the_diff_starts_from_the_last_confirmed_version(desk):
    publish(desk.project, "Be brief.")
    publish(desk.project, "Be bold.")
    client = desk.as_(desk.reviewer)
    context = client.get(desk.url("review")).context
    assert (context["before"].number, context["version"].number) == (1, 3)
    client.post(desk.url("review-guideline"), {"version": context["version"].pk})
    assert client.get(desk.url("review")).context["sheet"].version.number == 3


def test_a_submit_under_the_previous_version_is_accepted(desk, slot):
    old = desk.project.current_version
    publish(desk.project, "Be brief.")
    reply = send(desk.as_(desk.reviewer), desk, slot, guideline_version=old.pk).json()
    assert (reply["confirm"], reply["sheet"]) == (True, None)
    assert Ranking.objects.get().guideline_version == old
