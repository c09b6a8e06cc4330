"""Tests of the pages on which leads withdraw, restore and edit, and of their filters."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role
from labeling.models import Membership, Prompt, Ranking, Response, Task
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.removal import editing, withdrawing
from labeling.removal.editing import CannotEdit
from tests.clients import signed_in
from tests.labeling.world import ids, key, make_member, make_project, make_task, make_user, one_each

pytestmark = pytest.mark.django_db


@pytest.fixture
def task(project):
    return make_task(project)


def content_of(task, kind):
    return {"task": task, "prompt": task.prompt, "response": task.responses.first()}[kind]


def url(name, project, kind, content):
    return reverse(f"project-{name}", args=[project.slug, kind, content.pk])


def is_withdrawn(content):
    content.refresh_from_db()
    return content.withdrawn_at is not None


@pytest.mark.parametrize("kind", ["task", "prompt", "response"])
def test_a_lead_withdraws_and_restores(kind, project, lead, task):
    content, client = content_of(task, kind), signed_in(lead)
    address = url("withdraw", project, kind, content)
    page = client.get(address).content.decode()
    assert "It has no rankings." in page and not is_withdrawn(content)
    answer = client.post(address, {"reason": "Spam", "back": "//evil.example/"})
    assert answer.status_code == 302 and answer.url.startswith(f"/p/{project.slug}/data/")
    assert is_withdrawn(content) and content.withdrawn_reason == "Spam"
    assert AuditEntry.objects.get(action=f"{kind} withdrawn").user == lead
    page = client.get(reverse("project-task", args=[project.slug, task.pk])).content.decode()
    assert f"withdrawn by {lead}" in page and "Spam" in page
    answer = client.post(url("restore", project, kind, content), {"back": "/projects/"})
    assert answer.url == "/projects/" and not is_withdrawn(content)


@pytest.mark.parametrize("kind", ["task", "prompt", "response"])
def test_only_leads_of_the_project_withdraw_and_restore(kind, project, lead, task):
    content = content_of(task, kind)
    other = make_member(make_project(), Membership.Role.LEAD)
    for name in ("withdraw", "restore"):
        address = url(name, project, kind, content)
        assert Client().post(address).status_code == 302
        assert signed_in(make_member(project)).post(address).status_code == 403
        assert signed_in(other).post(address).status_code == 404
        assert signed_in(lead).put(address).status_code == 405
        stranger = url(name, make_project(), kind, content)
        assert signed_in(make_user(Role.TRAINER)).post(stranger).status_code == 404
    assert signed_in(lead).get(url("restore", project, kind, content)).status_code == 405
    assert not is_withdrawn(content)
    assert not AuditEntry.objects.filter(action__contains="withdrawn").exists()


def test_only_prompts_responses_and_tasks_can_be_withdrawn(project, lead):
    address = reverse("project-withdraw", args=[project.slug, "project", project.pk])
    assert signed_in(lead).get(address).status_code == 404


def test_a_reason_that_is_too_long_is_refused_with_a_sentence(project, lead, task):
    answer = signed_in(lead).post(url("withdraw", project, "task", task), {"reason": "x" * 301})
    assert answer.status_code == 422 and "at most 300" in answer.content.decode()
    assert not is_withdrawn(task)


def review(project, reviewer):
    return signed_in(reviewer).get(reverse("review", args=[project.slug])).content.decode()


def test_the_reviewer_is_not_shown_a_withdrawn_response(project, lead, task):
    reviewer = make_member(project)
    a, b, c = ids(task)
    Response.objects.filter(pk=b).update(text="Peculiar words.")
    assert "Peculiar words." in review(project, reviewer)
    withdrawing.withdraw(content=Response.objects.get(pk=b), by=lead)
    page = review(project, reviewer)
    assert "Peculiar words." not in page and "Answer 0." in page
    slot = task.slots.get(reviewer=reviewer)
    answer = signed_in(reviewer).post(
        reverse("review", args=[project.slug]),
        {
            "slot": slot.pk,
            "idempotency_key": str(key()),
            "shown_order": f"{a},{b},{c}",
            f"rank-{a}": "1",
            f"rank-{b}": "2",
            f"rank-{c}": "3",
            "rationale": "From a page opened before.",
        },
    )
    assert answer.status_code == 302
    ranking = Ranking.objects.get()
    assert ranking.tiers == [[a], [c]] and ranking.rationale == "From a page opened before."


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_a_ranking_of_a_withdrawn_task_is_kept_with_a_message(accept, project, lead, task):
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    withdrawing.withdraw(content=task.prompt, by=lead)
    ranks = {f"rank-{pk}": str(n) for n, pk in enumerate(ids(task), 1)}
    answer = signed_in(reviewer).post(
        reverse("review", args=[project.slug]),
        {
            "slot": slot.pk,
            "idempotency_key": str(key()),
            "shown_order": ",".join(map(str, ids(task))),
            **ranks,
        },
        headers={"accept": accept},
        follow=True,
    )
    assert answer.status_code == 200
    assert "A lead has withdrawn this task." in answer.content.decode()
    assert Ranking.objects.get().tiers == one_each(task)


def test_the_history_hides_withdrawn_tasks(project, lead, task):
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    submission = recording.submit(
        slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), content=Content(one_each(task))
    )
    Prompt.objects.filter(pk=task.prompt_id).update(
        messages=[{"role": "user", "content": "Peculiar words."}]
    )
    client = signed_in(reviewer)
    pages = [
        reverse("review-history", args=[project.slug]),
        reverse("review-ranking", args=[project.slug, submission.ranking.pk]),
    ]
    assert all("Peculiar words." in client.get(page).content.decode() for page in pages)
    withdrawing.withdraw(content=task, by=lead)
    for page in pages:
        assert "Peculiar words." not in client.get(page, follow=True).content.decode()


# --- the list ------------------------------------------------------------------------------------


def listed(client, project, show):
    address = reverse("project-data", args=[project.slug])
    return {row["task"].pk for row in client.get(address, {"show": show}).context["rows"]}


def test_tasks_can_be_filtered(project, lead):
    open_task, disputed, skipped, held, withdrawn, smaller = (
        make_task(project, held=name == "held")
        for name in ("open", "disputed", "skipped", "held", "withdrawn", "smaller")
    )
    for reverse_order in (False, True):
        member = make_member(project)
        tiers = one_each(disputed)
        recording.record(
            task=disputed,
            reviewer=member,
            source="simulation",
            content=Content(tiers[::-1] if reverse_order else tiers),
        )
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    slots.skip(slot_id=slot.pk, reviewer=reviewer, reason="unclear")
    withdrawing.withdraw(content=withdrawn, by=lead)
    withdrawing.withdraw(content=smaller.responses.first(), by=lead)
    client = signed_in(lead)
    assert listed(client, project, "disputed") == {disputed.pk}
    assert listed(client, project, "skipped") == {slot.task_id}
    assert listed(client, project, "held") == {held.pk}
    assert listed(client, project, "withdrawn") == {withdrawn.pk, smaller.pk}
    assert listed(client, project, "open") == {open_task.pk, skipped.pk, smaller.pk}
    assert len(listed(client, project, "")) == len(listed(client, project, "nonsense")) == 6


def test_a_filter_without_results_is_explained_and_links_back(project, lead, task):
    address = reverse("project-data", args=[project.slug])
    page = signed_in(lead).get(address, {"show": "held"}).content.decode()
    assert "No held tasks" in page and "Show all tasks" in page


# --- editing -------------------------------------------------------------------------------------


def send_edit(client, project, prompt, text):
    return client.post(
        reverse("project-prompt", args=[project.slug, prompt.pk]), {"message-0": text}
    )


def test_a_prompt_nobody_has_ranked_can_be_edited(project, lead, task):
    client = signed_in(lead)
    page = client.get(reverse("project-prompt", args=[project.slug, task.prompt_id]))
    assert page.status_code == 200 and page.context["obstacle"] == ""
    assert send_edit(client, project, task.prompt, "Corrected?\r\nYes.").status_code == 302
    before = task.prompt.content_hash
    task.prompt.refresh_from_db()
    assert task.prompt.messages == [{"role": "user", "content": "Corrected?\nYes."}]
    assert task.prompt.content_hash != before
    entry = AuditEntry.objects.get(action="prompt edited")
    assert entry.user == lead and "Corrected" not in str(entry.details)


def test_only_leads_can_edit_a_prompt(project, lead, task):
    other = make_member(make_project(), Membership.Role.LEAD)
    assert send_edit(signed_in(make_member(project)), project, task.prompt, "x").status_code == 403
    assert send_edit(signed_in(other), project, task.prompt, "x").status_code == 404
    assert send_edit(Client(), project, task.prompt, "x").status_code == 302
    assert Prompt.objects.get(pk=task.prompt_id).messages == task.prompt.messages


def test_a_ranked_prompt_cannot_be_edited(project, lead, task):
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    recording.submit(
        slot_id=slot.pk, reviewer=reviewer, idempotency_key=key(), content=Content(one_each(task))
    )
    answer = send_edit(signed_in(lead), project, task.prompt, "Other words")
    assert answer.status_code == 422 and "has been ranked" in answer.content.decode()
    assert Prompt.objects.get(pk=task.prompt_id).messages == task.prompt.messages


def test_a_prompt_that_a_reviewer_has_open_cannot_be_edited(project, lead, task):
    reviewer = make_member(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    slots.mark_shown(slot_id=slot.pk, reviewer=reviewer)
    with pytest.raises(CannotEdit, match="working on this prompt"):
        editing.edit(prompt=task.prompt, messages=[{"role": "user", "content": "Other"}], by=lead)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "non-empty"),
        ([{"role": "assistant", "content": "Hi"}], "nothing to answer"),
        ("Hello", "must be a non-empty list"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused(project, lead, task, messages, sentence):
    with pytest.raises(CannotEdit, match=sentence):
        editing.edit(prompt=task.prompt, messages=messages, by=lead)
    assert Prompt.objects.get(pk=task.prompt_id).messages == task.prompt.messages


def test_a_prompt_cannot_be_changed_to_a_duplicate(project, lead, task):
    other = make_task(project)
    with pytest.raises(CannotEdit, match=f"Prompt {other.prompt_id} "):
        editing.edit(prompt=task.prompt, messages=other.prompt.messages, by=lead)
    assert Task.objects.count() == 2
