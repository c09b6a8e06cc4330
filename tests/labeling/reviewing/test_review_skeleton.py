"""The short way to a sheet's HTML says exactly what its template says."""

import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from labeling.models import Project
from labeling.reviewing import skeleton
from tests.labeling.world import make_member, make_project, make_task

pytestmark = pytest.mark.django_db

CHANGES = re.compile(
    r'(name="csrfmiddlewaretoken" value=")[^"]*|(name="idempotency_key" value=")[^"]*'
)


def page_of(project):
    reviewer = make_member(project)
    client = Client()
    client.force_login(reviewer)
    client.get(reverse("review", args=[project.slug]))
    return client


def next_sheet(client, project):
    answer = client.get(reverse("review-next", args=[project.slug]))
    assert answer.status_code == 200
    return CHANGES.sub(r"\1\2", answer.content.decode())


def both_ways(client, project, monkeypatch):
    short = next_sheet(client, project)
    with monkeypatch.context() as patched:
        patched.setattr("labeling.reviewing.views.sheet_html", lambda *_: None)
        return short, next_sheet(client, project)


@pytest.mark.parametrize("k", [2, 3, 9])
@pytest.mark.parametrize("partial", [True, False])
def test_the_skeleton_renders_the_same_html_as_the_template(k, partial, monkeypatch):
    project = make_project(allow_partial=partial, min_rationale=7)
    for _ in range(3):
        make_task(project, responses=k)
    client = page_of(project)
    short, long = both_ways(client, project, monkeypatch)
    assert short == long and "Answer 1." in short
    client.cookies["guideline"] = "closed"
    closed, long = both_ways(client, project, monkeypatch)
    assert closed == long != short


def test_the_sheet_is_in_the_language_of_the_page(monkeypatch):
    project = make_project()
    make_task(project), make_task(project)
    client = page_of(project)
    both_ways(client, project, monkeypatch)
    client.cookies["django_language"] = "de"
    german, long = both_ways(client, project, monkeypatch)
    assert german == long


def test_hostile_text_is_rendered_safely(monkeypatch):
    project = make_project()
    tasks = [make_task(project), make_task(project)]
    nasty = f"<script>alert(1)</script> {skeleton.PLACEHOLDERS.csrf} {skeleton.PLACEHOLDERS.slot} \\1 **b**"
    for task in tasks:
        task.responses.update(text=nasty)
        task.prompt.messages = [
            {"role": role, "content": f"{nasty} {task.pk}"} for role in ("system", "user")
        ]
        task.prompt.save()
    short, long = both_ways(page_of(project), project, monkeypatch)
    assert short == long and "<script>alert" not in short
    assert skeleton.PLACEHOLDERS.csrf in short


@pytest.mark.parametrize("sees", ["sees_models", "sees_others", "sees_suggestions"])
def test_policies_that_show_more_use_the_template(sees):
    project = make_project(**{sees: Project.Sees.ALWAYS})
    make_task(project), make_task(project)
    assert skeleton.sheet_html(None, project, make_task(project).slots.first(), dict) is None


def test_the_contents_of_a_task_cost_one_query():
    project = make_project()
    for _ in range(3):
        make_task(project)
    client = page_of(project)
    next_sheet(client, project)
    with CaptureQueriesContext(connection) as queries:
        next_sheet(client, project)
    assert sum("labeling_response" in query["sql"] for query in queries) == 1
    assert not any("labeling_criterion" in query["sql"] for query in queries)
