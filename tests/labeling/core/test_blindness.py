"""Tests of the policy on who sees model names, other rankings and scores."""

import pytest
from django.urls import reverse

from accounts.models import Role, User
from labeling.core import blindness
from labeling.models import GuidelineConfirmation, Membership, Project, Ranking
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.urls import of_a_project
from tests.clients import signed_in
from tests.labeling.world import ids, key, make_member, make_project, make_task, make_user, one_each

pytestmark = pytest.mark.django_db

FIELDS = {
    "sees_models": blindness.may_see_models,
    "sees_others": blindness.may_see_others,
    "sees_suggestions": blindness.may_see_suggestions,
}
FACES = ("stranger", "reviewer", "reviewer after ranking", "lead", "trainer")
EXPECTED = {
    "leads": {"lead", "trainer"},
    "after": {"reviewer after ranking", "lead", "trainer"},
    "always": {"reviewer", "reviewer after ranking", "lead", "trainer"},
}


class World:
    def __init__(self, **policy: str):
        self.project = make_project(rankings_per_task=4, **policy)
        self.task, self.other = make_task(self.project), make_task(self.project)
        self.own = self.rank(self.task, 1, "It names a day.")
        self.theirs = self.rank(self.task, -1, "It rhymes like nothing else.")
        lead = make_user(Role.LEAD)
        Membership.objects.create(project=self.project, user=lead, role="lead")
        GuidelineConfirmation.objects.create(version=self.project.current_version, reviewer=lead)
        self.people = {
            "stranger": make_member(make_project()),
            "reviewer": make_member(self.project),
            "reviewer after ranking": self.own.reviewer,
            "lead": lead,
            "trainer": make_user(Role.TRAINER),
        }

    def rank(self, task, order: int, rationale: str) -> Ranking:
        return recording.record(
            task=task,
            reviewer=make_member(self.project),
            source="review",
            content=Content([[i] for i in ids(task)[::order]], rationale=rationale),
            shown_order=ids(task),
        )[0]


def page_of(user: User, name: str, *args) -> str:
    answer = signed_in(user).get(reverse(name, args=args))
    return answer.content.decode() if answer.status_code == 200 else str(answer.status_code)


@pytest.mark.parametrize("policy", Project.Sees.values)
@pytest.mark.parametrize("field", FIELDS)
def test_each_role_sees_only_values_that_the_policy_allows(field, policy):
    world = World(**{field: policy})
    seeing = {
        face for face in FACES if FIELDS[field](world.people[face], world.project, world.task)
    }
    assert seeing == EXPECTED[policy]


@pytest.mark.parametrize("field", FIELDS)
def test_ranking_a_task_reveals_nothing_about_other_tasks(field):
    world = World(**{field: "after"})
    reviewer = world.people["reviewer after ranking"]
    assert not FIELDS[field](reviewer, world.project, world.other)
    assert not FIELDS[field](reviewer, world.project)


@pytest.mark.parametrize("field", FIELDS)
def test_reviewers_of_a_task_are_blind_unless_everyone_always_sees(field):
    for policy, visible in (("leads", False), ("after", False), ("always", True)):
        world = World(**{field: policy})
        for face in ("reviewer after ranking", "lead", "trainer"):
            may = FIELDS[field](world.people[face], world.project, world.task, judging=True)
            assert may is visible


@pytest.mark.parametrize("field", FIELDS)
def test_a_blind_comparison_is_blind_under_every_policy(field):
    world = World(**{field: "always"})
    for task, visible in ((world.task, True), (make_task(world.project, kind="comparison"), False)):
        for face in ("reviewer", "lead", "trainer"):
            may = FIELDS[field](world.people[face], world.project, task, judging=True)
            assert may is visible


def test_an_undone_ranking_does_not_count_as_ranked():
    world = World(sees_others="after")
    Ranking.objects.filter(pk=world.own.pk).update(superseded_at=world.own.created_at)
    assert not blindness.may_see_others(world.own.reviewer, world.project, world.task)


# --- the pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "models", "others"),
    [
        ({}, False, False),
        ({"sees_models": "after"}, True, False),
        ({"sees_others": "after"}, False, True),
        ({"sees_models": "always", "sees_others": "always"}, True, True),
    ],
)
def test_after_ranking_a_reviewer_sees_the_values_that_the_policy_allows(policy, models, others):
    world = World(**policy)
    slug, reviewer = world.project.slug, world.own.reviewer
    history = page_of(reviewer, "review-history", slug)
    address = reverse("review-others", args=[slug, world.own.pk])
    assert (address in history) is (models or others)
    page = page_of(reviewer, "review-others", slug, world.own.pk)
    if not (models or others):
        assert page == "403"
        return
    assert ("model-0" in page) is models
    assert ("It rhymes like nothing else." in page) is others
    assert world.theirs.reviewer.username not in page


def test_other_rankings_cannot_be_opened_through_a_foreign_ranking():
    world = World(sees_others="always")
    for face in ("reviewer", "lead", "trainer"):
        assert (
            page_of(world.people[face], "review-others", world.project.slug, world.own.pk) == "404"
        )
    stranger = world.people["stranger"]
    assert page_of(stranger, "review-others", world.project.slug, world.own.pk) == "404"


@pytest.mark.parametrize("policy", ["leads", "after"])
def test_no_reviewer_page_shows_models_or_other_orders_before_ranking(policy):
    world = World(sees_models=policy, sees_others=policy)
    slug, reviewer = world.project.slug, world.people["reviewer"]
    slot = slots.claim(project=world.project, reviewer=reviewer)
    assert slot.task_id in {world.task.pk, world.other.pk}
    for name in ("project", "project-guideline", "review", "review-history"):
        page = page_of(reviewer, name, slug)
        assert "model-" not in page
        assert "It rhymes" not in page
        assert world.theirs.reviewer.username not in page


@pytest.mark.parametrize(
    "name",
    ["project-quality", "project-data", "project-disputes", "project-settings", "project-relabel"],
)
def test_reviewers_cannot_open_pages_of_leads_under_any_policy(name):
    world = World(sees_models="always", sees_others="always")
    slug = world.project.slug
    assert page_of(world.own.reviewer, name, slug) == "403"
    assert page_of(world.people["stranger"], name, slug) == "404"
    assert page_of(world.people["lead"], name, slug) not in {"403", "404"}


def test_only_leads_see_names_on_the_page_of_a_task():
    world = World(sees_models="always")
    args = (world.project.slug, world.task.pk)
    assert "model-0" in page_of(world.people["lead"], "project-task", *args)
    assert page_of(world.own.reviewer, "project-task", *args) == "403"


def test_the_ranking_page_names_models_to_everyone_only_when_the_policy_is_always():
    for policy, shown in (("leads", False), ("after", False), ("always", True)):
        world = World(sees_models=policy)
        slug = world.project.slug
        for face in ("reviewer", "lead"):
            page = page_of(world.people[face], "review", slug)
            assert ("model-0" in page) is shown, (policy, face)


def test_the_ranking_page_shows_other_rankings_only_when_the_policy_is_always():
    for policy, shown in (("leads", False), ("after", False), ("always", True)):
        world = World(sees_others=policy)
        for face in ("reviewer", "lead"):
            page = page_of(world.people[face], "review", world.project.slug)
            assert ("It rhymes like nothing else." in page) is shown, (policy, face)
            assert world.theirs.reviewer.username not in page


def test_a_tie_is_shown_as_a_tie():
    world = World(sees_others="after")
    third = make_member(world.project)
    recording.record(
        task=world.task, reviewer=third, source="review", content=Content([ids(world.task)])
    )
    page = page_of(world.own.reviewer, "review-others", world.project.slug, world.own.pk)
    assert "A tied with B tied with C" in page
    assert len(one_each(world.task)) == 3


# --- every page there is -------------------------------------------------------------------------


def addresses(world: World, ranking: Ranking) -> list[str]:
    """Return every page of a project, with this ranking's ids in its URL."""
    slot = world.task.slots.get(ranking=ranking)
    numbers = {
        "slug": world.project.slug,
        "task_id": world.task.pk,
        "slot_id": slot.pk,
        "ranking_id": ranking.pk,
        "user_id": ranking.reviewer_id,
        "key": key(),
    }
    urls = []
    for pattern in of_a_project:
        expected = {"slug", *pattern.pattern.converters}
        urls.append(reverse(pattern.name, kwargs={name: numbers.get(name, 1) for name in expected}))
    return urls


@pytest.mark.parametrize("face", ["stranger", "reviewer", "reviewer after ranking"])
def test_pages_for_leads_are_closed_to_others(face):
    """Check every URL pattern, so that new pages are covered."""
    world = World()
    client = signed_in(world.people[face])
    checked = 0
    for ranking in (world.own, world.theirs):
        for address in addresses(world, ranking):
            answer = client.get(address)
            assert answer.status_code < 500, address
            page = b"".join(answer.streaming_content) if answer.streaming else answer.content
            for secret in ("model-0", "It rhymes like", world.theirs.reviewer.username + "<"):
                assert secret not in page.decode(errors="replace"), (address, secret)
            checked += answer.status_code == 200
    assert checked or face == "stranger"
