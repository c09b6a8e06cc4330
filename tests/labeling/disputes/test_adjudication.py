"""Tests of disputes: their list, their blind pages, and outcomes with causes."""

import json
from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role, User
from labeling.disputes import adjudication
from labeling.disputes.adjudication import (
    CannotDecide,
    causes,
    decide,
    mark,
    open_disputes,
)
from labeling.models import Adjudication, Membership, Project, Ranking, Task
from labeling.pages.task_filters import filtered
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.statistics.reviewer_pairs import mean_distance
from tests.clients import signed_in
from tests.labeling.world import (
    ids,
    in_threads,
    make_member,
    make_project,
    make_task,
    make_user,
    one_each,
)

pytestmark = pytest.mark.django_db


def make_lead(project: Project) -> User:
    return make_user_in(project, Role.LEAD, Membership.Role.LEAD)


def make_user_in(project: Project, role: str, membership: str) -> User:
    user = make_user(role)
    Membership.objects.create(project=project, user=user, role=membership)
    return user


def rank(task: Task, tiers, **fields) -> Ranking:
    return recording.record(
        task=task,
        reviewer=make_member(task.project),
        source="review",
        content=Content(tiers, **fields),
    )[0]


def dispute(project: Project, *, apart: int = 0, responses: int = 3, **fields) -> Task:
    """Create two rankings, the second with its last `apart` responses (or all) reversed."""
    task = make_task(project, responses)
    order = ids(task)
    common = responses - apart if apart else 0
    rank(task, [[i] for i in order], rationale="It names a day.", **fields)
    rank(task, [[i] for i in order[:common] + order[common:][::-1]], rationale="It rhymes.")
    return task


def url(task: Task) -> str:
    return reverse("project-dispute", args=[task.project.slug, task.pk])


def outcome(task: Task, **fields) -> dict[str, str]:
    ranks = {f"rank-{i}": str(n) for n, i in enumerate(ids(task), start=1)}
    return {**ranks, "cut": "", "cause": "guideline", "note": "Says nothing of rhymes.", **fields}


# --- which ---------------------------------------------------------------------------------------


def test_disputes_and_all_disagreements_are_listed_separately(project):
    near, far, wide = (
        dispute(project, apart=2, responses=5),
        dispute(project, responses=7, apart=6),
        dispute(project, responses=5),
    )
    agreed = make_task(project)
    rank(agreed, one_each(agreed))
    rank(agreed, one_each(agreed))
    assert [
        (open_dispute.task_id, open_dispute.percent) for open_dispute in open_disputes(project)
    ] == [
        (wide.pk, 100),
        (far.pk, 71),
    ]
    client, address = (
        signed_in(make_lead(project)),
        reverse("project-disputes", args=[project.slug]),
    )
    page = client.get(address).text
    assert page.index(f"#{wide.pk}<") < page.index(f"#{far.pk}<")
    assert f"#{near.pk}<" not in page and f"#{agreed.pk}<" not in page
    everything = client.get(address, {"show": "all"}).text
    assert everything.index(f"#{far.pk}<") < everything.index(f"#{near.pk}<")
    assert f"#{agreed.pk}<" not in everything
    assert client.get(address, {"show": "nonsense"}).text.count(f"#{near.pk}<") == 0


def test_a_tie_against_an_order_counts_half_of_a_reversal():
    assert mean_distance([[[1], [2]], [[1, 2]]]) == 0.5
    assert mean_distance([[[1], [2]], [[2], [1]]]) == 1
    assert mean_distance([[[1], [2]]]) == 0


def test_gold_is_not_a_dispute(project):
    task = make_task(project, kind=Task.Kind.GOLD)
    rank(task, one_each(task))
    rank(task, one_each(task)[::-1])
    assert open_disputes(project) == []
    assert signed_in(make_lead(project)).get(url(task)).status_code == 404


def test_cached_disputes_cost_two_queries(project, django_assert_num_queries):
    for _ in range(3):
        dispute(project)
    for queries in (5, 2):
        with django_assert_num_queries(queries):
            assert len(open_disputes(project)) == 3


def test_the_list_the_counts_the_filter_and_the_command_have_the_same_disputes(project):
    disputed = {dispute(project, responses=5).pk for _ in range(2)}
    dispute(project, responses=5, apart=2)
    client = signed_in(make_lead(project))
    assert {open_dispute.task_id for open_dispute in open_disputes(project)} == disputed
    assert set(filtered(project, "disputed").values_list("pk", flat=True)) == disputed
    page = client.get(reverse("project-quality", args=[project.slug])).text
    assert (
        '<span class="figure-value">2</span><span class="figure-label">of 3 tasks disputed' in page
    )
    listed = client.get(reverse("project-disputes", args=[project.slug])).text
    assert 'Open <span class="muted">2</span>' in listed
    assert 'All disagreements <span class="muted">3</span>' in listed
    out = StringIO()
    call_command("agreement", f"--project={project.slug}", "--json", stdout=out)
    payload = json.loads(out.getvalue())
    assert (payload["disputed"], payload["differing"], payload["tasks"]) == (2, 3, 3)


def test_only_leads_of_the_project_see_and_decide_disputes(project):
    task = dispute(project)
    for address in (url(task), reverse("project-disputes", args=[project.slug])):
        assert Client().get(address).status_code == 302
        assert signed_in(make_member(project)).get(address).status_code == 403
        assert signed_in(make_lead(make_project())).get(address).status_code == 404
        assert signed_in(make_lead(project)).get(address).status_code == 200
    assert signed_in(make_member(project)).post(url(task), outcome(task)).status_code == 403
    assert not Adjudication.objects.exists()


def test_a_task_of_another_project_is_not_found(project):
    other = dispute(make_project(rankings_per_task=2))
    address = reverse("project-dispute", args=[project.slug, other.pk])
    assert signed_in(make_lead(project)).get(address).status_code == 404


# --- blind ---------------------------------------------------------------------------------------


def test_a_dispute_shows_rankings_without_reviewers_and_models(project):
    task = dispute(project)
    page = signed_in(make_lead(project)).get(url(task)).content.decode()
    assert "It names a day." in page
    assert "It rhymes." in page
    for text in ("Answer 0.", "Answer 1.", "Answer 2."):
        assert text in page
    for reviewer in task.rankings.values_list("reviewer__username", flat=True):
        assert reviewer not in page
    assert "model-0" not in page


def test_a_dispute_shows_model_names_if_the_policy_shows_them_to_everyone(project):
    task, lead = dispute(project), make_lead(project)
    for policy, shown in (("after", False), ("always", True)):
        Project.objects.filter(pk=project.pk).update(sees_models=policy)
        assert ("model-0" in signed_in(lead).get(url(task)).content.decode()) is shown


def test_leads_see_model_names_of_a_decided_dispute(project):
    task, lead = dispute(project), make_lead(project)
    signed_in(lead).post(url(task), outcome(task))
    assert "model-0" in signed_in(lead).get(url(task)).content.decode()


def test_hostile_rationales_and_responses_are_inert(project):
    task = dispute(project, flags={})
    rank(task, one_each(task), rationale="<script>alert(1)</script>")
    task.responses.update(text="<img src=x onerror=alert(1)>")
    page = signed_in(make_lead(project)).get(url(task)).content.decode()
    assert "<script>alert" not in page
    assert "<img" not in page


# --- deciding ------------------------------------------------------------------------------------


def test_an_outcome_and_its_cause_are_recorded_and_the_next_dispute_follows(project):
    second, first = dispute(project), dispute(project)
    lead = make_lead(project)
    answer = signed_in(lead).post(url(first), outcome(first, cut="2"))
    assert answer.url == url(second)
    decided = Adjudication.objects.get(task=first)
    assert decided.tiers == one_each(first)
    assert (decided.cut, decided.cause, decided.by) == (2, "guideline", lead)
    assert decided.guideline_version == project.current_version
    assert decided.note == "Says nothing of rhymes."
    assert AuditEntry.objects.get(action="dispute decided").details["cause"] == "guideline"
    assert [open_dispute.task_id for open_dispute in open_disputes(project)] == [second.pk]
    assert signed_in(lead).post(url(second), outcome(second)).url == reverse(
        "project-disputes", args=[project.slug]
    )


def test_equal_ranks_are_a_tie_and_the_line_is_below_a_rank(project):
    task = dispute(project)
    a, b, c = ids(task)
    ranks = {f"rank-{a}": "2", f"rank-{b}": "2", f"rank-{c}": "1"}
    signed_in(make_lead(project)).post(url(task), outcome(task, **ranks, cut="1"))
    decided = Adjudication.objects.get()
    assert [sorted(tier) for tier in decided.tiers] == [[c], [a, b]]
    assert decided.cut == 1


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("cause", "", "Choose why reviewers disagreed"),
        ("cause", "moon", "Select a valid choice"),
        ("rank", "", "has no rank yet"),
        ("cut", "9", "Select a valid choice"),
    ],
)
def test_missing_fields_are_named_and_input_is_kept(project, field, value, sentence):
    task = dispute(project)
    name = f"rank-{ids(task)[0]}" if field == "rank" else field
    answer = signed_in(make_lead(project)).post(url(task), outcome(task, **{name: value}))
    assert answer.status_code == 422
    page = answer.content.decode()
    assert sentence in page
    assert "Says nothing of rhymes." in page
    assert not Adjudication.objects.exists()


def test_a_project_without_ties_has_no_ties_in_outcomes(project):
    Project.objects.filter(pk=project.pk).update(allow_ties=False)
    task = dispute(project)
    ranks = {f"rank-{i}": "1" for i in ids(task)}
    answer = signed_in(make_lead(project)).post(url(task), outcome(task, **ranks))
    assert "does not allow ties" in answer.content.decode()


def test_an_outcome_may_start_from_either_ranking(project):
    task = dispute(project)
    client = signed_in(make_lead(project))
    starts = []
    for number in (1, 2):
        form = client.get(url(task), {"from": number}).context["form"]
        starts.append([form.initial[f"rank-{form.names[i]}"] for i in ids(task)])
    assert sorted(starts) == [["1", "2", "3"], ["3", "2", "1"]]
    assert client.get(url(task), {"from": "7"}).context["form"].initial.get("cut") is None


def test_a_lead_may_change_an_outcome_and_the_audit_trail_keeps_the_old_one(project):
    task, lead = dispute(project), make_lead(project)
    first = decide(task=task, by=lead, tiers=one_each(task), cause="close", note="Even.")
    client = signed_in(lead)
    fingerprint = client.get(url(task)).context["form"].initial["seen"]
    assert fingerprint == mark(first)
    client.post(url(task), outcome(task, cause="mistake", seen=fingerprint))
    assert Adjudication.objects.get().cause == "mistake"
    entry = AuditEntry.objects.filter(action="dispute decided").first()
    assert entry.details["before"] == {
        "tiers": one_each(task), "cut": None, "cause": "close", "note": "Even.",
        "shown_order": [], "by": lead.username,
    }  # fmt: skip


def test_a_lead_cannot_overwrite_an_unseen_outcome(project):
    task, lead = dispute(project), make_lead(project)
    decide(task=task, by=lead, tiers=one_each(task), cause="close")
    answer = signed_in(make_lead(project)).post(url(task), outcome(task))
    assert answer.status_code == 422
    assert "Another lead has decided this" in answer.content.decode()
    assert Adjudication.objects.get().cause == "close"


@pytest.mark.django_db(transaction=True)
def test_two_concurrent_leads_make_one_outcome():
    project = make_project(rankings_per_task=2)
    task = dispute(project)
    leads = [make_lead(project) for _ in range(2)]
    result = in_threads(
        *(
            lambda by=by: decide(task=task, by=by, tiers=one_each(task), cause="close")
            for by in leads
        )
    )
    assert sorted(type(item).__name__ for item in result) == ["Adjudication", "CannotDecide"]


def test_an_outcome_places_every_response_of_the_task_and_no_other(project):
    task, lead = dispute(project), make_lead(project)
    for tiers in (one_each(task)[:2], [*one_each(task), [0]], [[], *one_each(task)]):
        with pytest.raises(CannotDecide) as refused:
            decide(task=task, by=lead, tiers=tiers, cause="close")
        assert set(refused.value.errors) == {"tiers"}
    with pytest.raises(CannotDecide) as refused:
        decide(task=task, by=lead, tiers=one_each(task), cut=4, cause="moon", note="x" * 5001)
    assert set(refused.value.errors) == {"cut", "cause", "note"}


def test_a_decided_task_gets_no_more_rankings():
    project = make_project(
        overlap=Project.Overlap.SEQUENTIAL, rankings_per_task=2, rankings_at_most=5
    )
    task = dispute(project)
    assert task.slots.count() == 3
    decide(task=task, by=make_lead(project), tiers=one_each(task), cause="close")
    assert task.slots.count() == 2
    rank(task, one_each(task)[::-1])
    assert not task.slots.filter(ranking=None).exists()


# --- counted -------------------------------------------------------------------------------------


def test_causes_are_counted_and_gaps_lead_to_the_guideline(project):
    lead = make_lead(project)
    for cause, count in (("guideline", 2), ("close", 1)):
        for _ in range(count):
            task = dispute(project)
            decide(task=task, by=lead, tiers=one_each(task), cause=cause, note="Rhymes?")
    assert [(row.cause, row.count) for row in causes(project)] == [("guideline", 2), ("close", 1)]
    assert len(adjudication.guideline_gaps(project)) == 2
    page = signed_in(lead).get(reverse("project-quality", args=[project.slug])).content.decode()
    assert "Why reviewers disagreed" in page
    assert "Rhymes?" in page
    assert f'href="{reverse("project-guideline", args=[project.slug])}"' in page


def test_the_number_of_queries_of_the_list_is_constant(project, django_assert_max_num_queries):
    lead = make_lead(project)
    for _ in range(4):
        dispute(project)
    client = signed_in(lead)
    with django_assert_max_num_queries(14):
        client.get(reverse("project-disputes", args=[project.slug]))
