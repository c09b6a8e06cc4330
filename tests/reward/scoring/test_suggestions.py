"""Tests of showing a reward model's scores according to the project's policy."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Role
from labeling.core.suggestions import suggestions_for
from labeling.models import Membership, Project
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.reviewing import skeleton
from reward.models import ResponseScore, RewardModel
from tests.finetune.factory import make_reward_model, make_snapshot
from tests.labeling.world import ids, key, make_member, make_project, make_task, make_user, one_each

pytestmark = pytest.mark.django_db

SCORES = ("7.31", "-4.25", "0.62")


class World:
    """Create two tasks with three responses, scored by a promoted model."""

    def __init__(self, policy: str):
        self.project = make_project(rankings_per_task=3, sees_suggestions=policy)
        self.tasks = [make_task(self.project), make_task(self.project)]
        self.model = make_reward_model(make_snapshot(make_project(), prompts=1))
        RewardModel.objects.filter(pk=self.model.pk).update(
            project=self.project, state="promoted", name="the-oracle"
        )
        for task in self.tasks:
            for response, score in zip(ids(task), SCORES, strict=True):
                ResponseScore.objects.create(
                    reward_model=self.model, response_id=response, score=float(score),
                    uncertainty=0.37,
                )  # fmt: skip
        self.reviewer = make_member(self.project)

    def page(self, name: str, *args, person=None) -> str:
        client = Client()
        client.force_login(person or self.reviewer)
        answer = client.get(reverse(name, args=[self.project.slug, *args]))
        return answer.content.decode() if answer.status_code == 200 else str(answer.status_code)

    def rank(self):
        slot = slots.claim(project=self.project, reviewer=self.reviewer)
        return recording.submit(
            slot_id=slot.pk,
            reviewer=self.reviewer,
            idempotency_key=key(),
            content=Content(one_each(slot.task)),
        ).ranking


def shows(page: str) -> bool:
    visible_scores = [score in page for score in SCORES]
    assert all(visible_scores) or not any(visible_scores)
    assert ("the-oracle" in page) is all(visible_scores)
    return all(visible_scores)


@pytest.mark.parametrize(
    ("policy", "while_ranking", "afterwards"),
    [("leads", False, False), ("after", False, True), ("always", True, True)],
)
def test_a_reviewer_sees_scores_when_the_policy_says(policy, while_ranking, afterwards):
    world = World(policy)
    assert shows(world.page("review")) is while_ranking
    assert shows(world.page("review-next")) is while_ranking
    ranking = world.rank()
    others = world.page("review-others", ranking.pk)
    assert shows(others) is afterwards
    assert (others == "403") is not afterwards
    link = reverse("review-others", args=[world.project.slug, ranking.pk])
    assert (link in world.page("review-history")) is afterwards
    assert shows(world.page("review")) is while_ranking
    assert shows(world.page("review-ranking", ranking.pk)) is while_ranking
    assert world.page("project-task", world.tasks[0].pk) == "403"


@pytest.mark.parametrize("policy", Project.Sees.values)
def test_leads_see_scores_on_the_task_page_but_not_while_ranking(policy):
    world = World(policy)
    trainer = make_user(Role.TRAINER)
    assert shows(world.page("project-task", world.tasks[0].pk, person=trainer))
    lead = make_member(world.project, Membership.Role.LEAD)
    lead.role = Role.LEAD
    lead.save(update_fields=["role"])
    assert shows(world.page("project-task", world.tasks[1].pk, person=lead))
    assert shows(world.page("review", person=lead)) is (policy == "always")


def test_ranking_a_task_reveals_no_scores_of_another():
    world = World("after")
    ranking = world.rank()
    other = next(task for task in world.tasks if task.pk != ranking.task_id)
    assert suggestions_for(world.reviewer, other, ids(other)) == {}
    assert len(suggestions_for(world.reviewer, ranking.task, ids(ranking.task))) == 3


def test_scores_of_an_unpromoted_model_are_not_shown():
    world = World("always")
    RewardModel.objects.update(state="candidate")
    assert not shows(world.page("review"))


def test_responses_without_a_score_are_shown_without_one():
    world = World("always")
    row = ResponseScore.objects.filter(response__in=ids(world.tasks[0])).first()
    ResponseScore.objects.filter(pk=row.pk).update(score=None, uncertainty=None)
    page = world.page("review")
    assert page.count("0.37") == 2 and "None" not in page


def test_the_spread_of_several_heads_is_shown():
    world = World("always")
    assert "± 0.37" in world.page("review")
    ResponseScore.objects.update(uncertainty=None)
    assert "±" not in world.page("review")


def test_a_sheet_with_scores_is_rendered_by_the_template():
    world = World("always")
    slot = world.tasks[0].slots.first()
    assert skeleton.sheet_html(None, world.project, slot, dict) is None


@pytest.mark.parametrize("policy", ["leads", "after"])
def test_a_page_that_may_not_show_scores_does_not_query_them(policy):
    world = World(policy)
    with CaptureQueriesContext(connection) as queries:
        world.page("review"), world.page("review-next")
    assert not any("reward_responsescore" in query["sql"] for query in queries)


def test_a_hostile_name_of_a_model_is_text():
    world = World("always")
    RewardModel.objects.update(name='"><script>alert(1)</script>')
    page = world.page("review")
    assert "<script>alert" not in page and "7.31" in page
