import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Role, User
from labeling.models import Membership, Project, Prompt, Ranking, Response, Task
from labeling.quality.measures import quality_of
from labeling.queue import slots
from labeling.queue.tasks import add_task
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.reviewing.progress import by_reviewer, of_project, of_reviewer
from tests.clients import signed_in
from tests.labeling.world import (
    ids,
    key,
    make_member,
    make_project,
    make_task,
    make_user,
    one_each,
    publish,
)

pytestmark = pytest.mark.django_db

LEADS_ONLY = ("project-quality", "project-data")


def make_lead(project: Project) -> User:
    user = make_user(Role.LEAD)
    Membership.objects.create(project=project, user=user, role=Membership.Role.LEAD)
    return user


def rank(task: Task, reviewer: User, tiers=None, **fields) -> Ranking:
    source = fields.pop("source", Ranking.Source.REVIEW)
    content = Content(tiers or one_each(task), **fields)
    return recording.record(task=task, reviewer=reviewer, source=source, content=content)[0]


def test_only_leads_see_other_peoples_rankings(project):
    task = make_task(project)
    reviewer, lead = make_member(project), make_lead(project)
    elsewhere = make_lead(make_project())
    urls = [reverse(name, args=[project.slug]) for name in LEADS_ONLY]
    urls.append(reverse("project-task", args=[project.slug, task.pk]))
    for url in urls:
        assert signed_in(lead).get(url).status_code == 200
        assert signed_in(make_user(Role.TRAINER)).get(url).status_code == 200
        assert signed_in(reviewer).get(url).status_code == 403
        assert signed_in(elsewhere).get(url).status_code == 404
        assert Client().get(url).status_code == 302
        assert signed_in(lead).post(url).status_code == 405


def test_the_overview_counts_rankings_and_waiting_tasks(project):
    reviewer, other = make_member(project), make_member(project)
    tasks = [make_task(project) for _ in range(3)]
    rank(tasks[0], reviewer)
    rank(tasks[0], other, source=Ranking.Source.SIMULATION)
    counted = of_project(project)
    assert (counted.tasks, counted.slots, counted.filled) == (3, 6, 2)
    assert {row.username: row.simulated for row in by_reviewer(project)} == {
        reviewer.username: 0,
        other.username: 1,
    }
    own = of_reviewer(project, reviewer)
    assert (own.today, own.waiting, own.capped) == (1, 2, False)
    slots.claim(project=project, reviewer=reviewer)
    assert of_reviewer(project, reviewer).waiting == 2
    assert of_reviewer(project, other).today == 0  # a program's work is not their day


def test_a_skip_and_a_revision_count_once(project):
    reviewer = make_member(project)
    ranking = rank(make_task(project), reviewer, active_seconds=20)
    recording.revise(
        ranking=ranking,
        reviewer=reviewer,
        idempotency_key=key(),
        content=Content([ids(ranking.task)], active_seconds=40),
    )
    make_task(project)
    slot = slots.claim(project=project, reviewer=reviewer)
    slots.skip(slot_id=slot.pk, reviewer=reviewer, reason="other")
    [row] = by_reviewer(project)
    assert (row.rankings, row.seconds, row.skips) == (1, 40, 1)
    assert of_reviewer(project, reviewer).waiting == 0


def test_the_most_disputed_task_comes_first_without_names(project):
    calm, tied, upside_down = (make_task(project, responses=5) for _ in range(3))
    a, b = make_member(project), make_member(project)
    for task, other in (
        (calm, one_each(calm)),
        (tied, [ids(tied)]),
        (upside_down, one_each(upside_down)[::-1]),
    ):
        rank(task, a)
        rank(task, b, other, rationale="It names a day.")
    quality = quality_of(project)
    assert [d.task_id for d in quality.disputes] == [upside_down.pk]
    assert [(d.task_id, d.distance) for d in quality.disagreements] == [
        (upside_down.pk, 1.0),
        (tied.pk, 0.5),
    ]
    assert quality.agreement.value == pytest.approx(1 / 2)
    page = signed_in(make_lead(project)).get(reverse("project-quality", args=[project.slug]))
    html = page.content.decode()
    disputes = html[html.index("Disputed") :]
    assert "It names a day." in disputes
    assert a.username not in disputes and b.username not in disputes


def test_simulated_rankings_are_always_marked(project):
    task, lead = make_task(project), make_lead(project)
    program = make_member(project)
    User.objects.filter(pk=program.pk).update(simulated=True)
    rank(task, program, source=Ranking.Source.SIMULATION)
    rank(task, make_member(project), one_each(task)[::-1])
    for name, args in (
        ("project", []),
        ("project-quality", []),
        ("project-task", [task.pk]),
    ):
        page = signed_in(lead).get(reverse(name, args=[project.slug, *args]))
        assert 'class="simulated"' in page.content.decode(), name
    history = signed_in(program).get(reverse("review-history", args=[project.slug]))
    assert 'class="simulated"' in history.content.decode()


def test_a_missing_agreement_is_explained(project):
    page = signed_in(make_lead(project)).get(reverse("project-quality", args=[project.slug]))
    assert b"Agreement needs two reviewers on the same task" in page.content


def test_tasks_are_found_by_id_and_by_words_of_the_prompt(project, monkeypatch):
    monkeypatch.setattr("labeling.pages.data.PAGE_SIZE", 2)
    tasks = [make_task(project) for _ in range(5)]
    client, url = signed_in(make_lead(project)), reverse("project-data", args=[project.slug])

    def listed(**query) -> list[int]:
        page = client.get(url, query)
        return [row["task"].pk for row in page.context["rows"]]

    assert listed() == [tasks[4].pk, tasks[3].pk]
    assert listed(before=tasks[3].pk) == [tasks[2].pk, tasks[1].pk]
    assert listed(before=tasks[1].pk) == [tasks[0].pk]
    words = tasks[2].prompt.messages[0]["content"]
    assert listed(q=words.upper()) == [tasks[2].pk]
    assert listed(q=f"#{tasks[0].pk}") == [tasks[0].pk]
    assert listed(q="no such words") == []
    assert listed(before="nonsense") == [tasks[4].pk, tasks[3].pk]


def test_the_number_of_queries_does_not_grow_with_tasks(project, django_assert_num_queries):
    lead, url = make_lead(project), reverse("project-data", args=[project.slug])
    client = signed_in(lead)
    counts = []
    for _ in range(2):
        make_task(project)
        with django_assert_num_queries(8) as queries:
            client.get(url)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_a_task_is_shown_only_in_its_project(project):
    foreign = make_task(make_project())
    url = reverse("project-task", args=[project.slug, foreign.pk])
    assert signed_in(make_lead(project)).get(url).status_code == 404


def test_reviewers_see_published_guidelines_and_leads_also_the_draft(project):
    publish(project, "Be kind. Be **brief**.")
    reviewer, lead = make_member(project), make_lead(project)
    from labeling.guidelines import versions

    versions.create_draft(project=project, by=lead, text="Secret plans.", criteria=[])
    url = reverse("project-guideline", args=[project.slug])
    page = signed_in(reviewer).get(url)
    assert "<strong>brief</strong>" in page.content.decode()
    assert [version.number for version in page.context["versions"]] == [2, 1]
    assert signed_in(reviewer).get(url, {"version": 3}).status_code == 404
    assert b"Secret plans." in signed_in(lead).get(url, {"version": 3}).content
    changed = signed_in(reviewer).get(url).context["difference"]
    assert {line.kind for line in changed} >= {"added", "removed"}


def test_each_role_has_its_start_page(project):
    make_task(project)
    reviewer, lead, trainer = make_member(project), make_lead(project), make_user(Role.TRAINER)
    home = reverse("home")
    assert b"Start reviewing" in signed_in(reviewer).get(home).content
    assert b"rankings done" in signed_in(lead).get(home).content
    assert b"Recent runs" in signed_in(trainer).get(home).content
    assert b"Recent runs" not in signed_in(lead).get(home).content
    assert b"No projects yet" in signed_in(make_user()).get(home).content
    assert Client().get(home).status_code == 302


def test_the_menu_shows_each_role_its_pages(project):
    def places(user: User) -> list[str]:
        page = signed_in(user).get(reverse("projects"))
        return [item["label"] for item in page.context["items"]]

    assert places(make_member(project)) == ["Review", "Projects"]
    assert places(make_lead(project))[-1] == "Admin"
    assert places(make_user(Role.TRAINER)) == [
        "Review", "Projects", "Snapshots", "Runs", "Models", "Chats", "Admin",
    ]  # fmt: skip


def test_hostile_text_is_escaped_on_every_page(project):
    bad = "<script>alert(1)</script>"
    prompt = Prompt.objects.create(project=project, messages=[{"role": "user", "content": bad}])
    responses = [
        Response.objects.create(prompt=prompt, text=f"{bad}{n}", model_name=bad) for n in range(5)
    ]
    task, _ = add_task(project=project, prompt=prompt, responses=responses)
    rank(task, make_member(project), rationale=bad)
    rank(task, make_member(project), one_each(task)[::-1], rationale=bad)
    client = signed_in(make_lead(project))
    for name, args in (
        ("project-data", []),
        ("project-quality", []),
        ("project-task", [task.pk]),
    ):
        page = client.get(reverse(name, args=[project.slug, *args])).content.decode()
        assert bad not in page and "&lt;script&gt;" in page, name


def test_an_archived_project_offers_no_changes(client):
    project = make_project(published=False, archived_at=timezone.now())
    page = signed_in(make_lead(project)).get(reverse("project", args=[project.slug]))
    content = page.content.decode()
    assert "No tasks yet" in content and "Restore project" in content
    assert "Import a file" not in content and "Write the guideline" not in content
