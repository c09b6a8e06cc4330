"""Tests that no page on which responses are judged contains a response's id."""

import json
import re

import pytest
from django.db import connection
from django.utils.crypto import salted_hmac

from accounts.models import Role
from labeling.core.response_names import page_names
from labeling.models import GuidelineConfirmation, Membership, Ranking, Slot
from labeling.rankings.content import FLAGS
from tests.labeling.pages.test_pages_review import Desk
from tests.labeling.world import ids, make_task, make_user

pytestmark = pytest.mark.django_db

IDS = re.compile(r"(?<![0-9A-Za-z])70000\d\d(?![0-9A-Za-z])")
"""The ids of responses in these tests; no other number of a page is as long."""


@pytest.fixture
def desk() -> Desk:
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('labeling_response_id_seq', 7000000)")
    return Desk()


def own_slot(desk: Desk) -> Slot:
    return Slot.objects.get(reviewer=desk.reviewer, ahead=False, ranking=None)


def posted(desk: Desk, slot: Slot, ranks=(1, 2, 2), **fields: object) -> dict[str, object]:
    """Return the form as the page sends it, with names in place of ids."""
    names = page_names(slot.task_id, ids(slot.task))
    form = {**desk.answer(slot, ranks), **fields}
    text = json.dumps(form)
    for pk, name in names.items():
        text = text.replace(str(pk), name)
    return json.loads(text)


@pytest.mark.parametrize("responses", [2, 3])
def test_no_page_of_a_reviewer_contains_an_id(desk, responses):
    desk.task.delete()
    make_task(desk.project, responses=responses)
    make_task(desk.project, responses=responses)
    client = desk.as_(desk.reviewer)
    pages = [client.get(desk.url("review")), client.get(desk.url("review-next"))]
    refused = {"slot": own_slot(desk).pk, "rationale": "Kept."}
    pages.append(client.post(desk.url("review"), refused))
    pages.append(client.post(desk.url("review"), refused, headers={"Accept": "application/json"}))
    ranks = range(1, responses + 1)
    sent = posted(desk, own_slot(desk), ranks, strength="1")
    pages.append(
        client.post(desk.url("review"), sent, headers={"Accept": "application/json"}),
    )
    ranking = Ranking.objects.get()
    pages.append(client.get(desk.url("review-ranking", ranking.pk)))
    assert [page.status_code for page in pages] == [200, 200, 422, 422, 200, 200]
    for page in pages:
        assert re.search(r"r[0-9a-f]{16}", page.text) or page is pages[4]
        assert not IDS.search(page.text)


def test_the_errors_of_a_rating_name_no_id(desk):
    client = desk.as_(desk.reviewer)
    client.get(desk.url("review"))
    slot = own_slot(desk)
    rating = {f"rating-{ids(slot.task)[0]}-honesty": "99"}
    answer = client.post(
        desk.url("review"), posted(desk, slot, **rating), headers={"Accept": "application/json"}
    )
    assert answer.status_code == 422
    assert "honesty" in answer.text
    assert not IDS.search(answer.text)


def test_a_form_with_names_is_stored_with_ids(desk):
    client = desk.as_(desk.reviewer)
    client.get(desk.url("review"))
    slot = own_slot(desk)
    best, middle, worst = ids(slot.task)
    fields = {f"rating-{best}-honesty": "4", f"flag-{worst}": next(iter(FLAGS))}
    assert client.post(desk.url("review"), posted(desk, slot, **fields)).status_code == 302
    ranking = Ranking.objects.get()
    assert [sorted(tier) for tier in ranking.tiers] == [[best], [middle, worst]]
    assert ranking.shown_order == slot.shown_order
    assert ranking.ratings == {str(best): {"honesty": 4}}
    assert ranking.flags == {str(worst): [next(iter(FLAGS))]}
    revision = posted(desk, slot, (3, 2, 1))
    client.post(desk.url("review-ranking", ranking.pk), revision)
    assert Ranking.objects.get(superseded_at=None).tiers == [[worst], [middle], [best]]


def test_names_of_another_task_are_refused(desk):
    client = desk.as_(desk.reviewer)
    client.get(desk.url("review"))
    slot = own_slot(desk)
    other = page_names(slot.task_id + 1, ids(slot.task))
    form = {**desk.answer(slot), **{f"rank-{name}": "1" for name in other.values()}}
    form = {name: v for name, v in form.items() if not re.match(r"rank-7", name)}
    assert client.post(desk.url("review"), form).status_code == 422
    assert not Ranking.objects.exists()


def test_a_draft_with_names_is_shown_again(desk):
    client = desk.as_(desk.reviewer)
    client.get(desk.url("review"))
    slot = own_slot(desk)
    names = page_names(slot.task_id, ids(slot.task))
    draft = {"fields": {f"rank-{names[ids(slot.task)[1]]}": ["3"]}, "at": 1}
    client.post(desk.url("review-draft", slot.pk), json.dumps(draft), "application/json")
    page = client.get(desk.url("review"))
    ranks = {card.id: card.rank for card in page.context["sheet"].cards}
    assert ranks[ids(slot.task)[1]] == "3"
    assert not IDS.search(page.text)


def test_an_open_dispute_contains_no_id(desk):
    for reviewer, order in ((desk.reviewer, 1), (desk.other, -1)):
        Ranking.objects.create(
            task=desk.task, reviewer=reviewer, tiers=[[i] for i in ids(desk.task)[::order]]
        )
    lead = make_user(Role.LEAD)
    Membership.objects.create(project=desk.project, user=lead, role="lead")
    GuidelineConfirmation.objects.create(version=desk.project.current_version, reviewer=lead)
    client = desk.as_(lead)
    address = desk.url("project-dispute", desk.task.pk)
    page = client.get(address, {"from": "1"})
    assert not IDS.search(page.text)
    names = page_names(desk.task.pk, ids(desk.task))
    ranks = {f"rank-{name}": str(rank) for rank, name in enumerate(names.values(), 1)}
    client.post(address, {**ranks, "cause": "close", "cut": ""})
    assert desk.task.adjudication.tiers == [[i] for i in ids(desk.task)]


def test_names_are_keyed_with_the_secret_key(settings):
    salted = salted_hmac("labeling.response", "3:7").hexdigest()
    assert page_names(3, [7]) == {7: f"r{salted[:16]}"}
    settings.SECRET_KEY = "another"
    assert page_names(3, [7]) != {7: f"r{salted[:16]}"}
