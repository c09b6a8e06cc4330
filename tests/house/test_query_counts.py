"""Pinned query counts of the list pages.

TIEBREAK_PIN_QUERIES=1 in the environment regenerates the counts.
"""

import json
import os
from pathlib import Path

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver

from accounts.models import Role
from benchmarks.pages import PROJECT_PAGES, SITE_PAGES, addresses
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.world import key, make_member, make_project, make_task, make_user, one_each

pytestmark = pytest.mark.django_db
PINNED = Path(__file__).with_name("query_counts.json")


def fill(project, people):
    """Add two tasks, ranked by all reviewers."""
    for _ in range(2):
        task = make_task(project, rankings_wanted=len(people))
        for person in people:
            slot = slots.claim(project=project, reviewer=person)
            recording.submit(
                slot_id=slot.pk,
                reviewer=person,
                idempotency_key=key(),
                content=Content(one_each(task)),
            )


@pytest.fixture
def world():
    project = make_project(rankings_per_task=2)
    people = [make_member(project) for _ in range(2)]
    trainer = make_user(Role.TRAINER, is_superuser=True)
    client = Client()
    client.force_login(trainer)
    fill(project, [*people, trainer])
    return project, [*people, trainer], client


def counts(client, project):
    results = {}
    for name, address in addresses(project.slug).items():
        client.get(address)
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(address)
        assert answer.status_code == 200, f"{address} answered {answer.status_code}"
        results[name] = len(queries)
    return results


def test_every_list_page_runs_its_pinned_number_of_queries(world):
    project, _, client = world
    result = counts(client, project)
    if os.environ.get("TIEBREAK_PIN_QUERIES"):
        PINNED.write_text(json.dumps(result, indent=2) + "\n")
    pinned = json.loads(PINNED.read_text())
    changed = {
        name: f"{pinned.get(name)} → {result.get(name)}"
        for name in sorted({*pinned, *result})
        if pinned.get(name) != result.get(name)
    }
    assert not changed, f"Run with TIEBREAK_PIN_QUERIES=1 if this is meant: {changed}"


def test_no_list_page_runs_more_queries_for_more_rows(world):
    project, people, client = world
    before = counts(client, project)
    fill(project, people)
    make_project()
    after = counts(client, project)
    per_project = {"home", "projects"}
    more = {name for name in before if after[name] > before[name]} - per_project
    assert not more


def test_every_page_without_an_id_is_pinned_or_listed():
    """Check that new pages are pinned, or listed here as not being lists."""
    others = {
        "home", "login", "logout", "change-password", "health", "words", "start-review", "review",
        "review-next", "review-guideline", "review-qualification", "new-snapshot", "add-model",
        "run-new", "run-compare", "run-queue", "ready", "metrics", "new-project", "set_language", "project-findings-decide", "project-export-file",
        "project-archive", "project-unarchive", "delete-project",
        "project-export-about", "openapi-json",
        "queue-order-undo", "project-guideline-preview", "project-guideline-publish",
        "project-guideline-delete", "project-members-new", "project-invite", "profile", "reset-password",
        "account_login", "admin-login", "account_reauthenticate", "mfa_index", "mfa_authenticate",
        "mfa_reauthenticate", "mfa_activate_totp", "mfa_deactivate_totp", "mfa_view_recovery_codes",
        "mfa_generate_recovery_codes", "mfa_download_recovery_codes", "mfa_list_webauthn",
        "mfa_add_webauthn", "mfa_login_webauthn", "mfa_reauthenticate_webauthn",
        "end-other-sessions", "graphql", "openai-root", "openai-models", "openai-chat",
    }  # fmt: skip
    names = set()
    for pattern in _patterns(get_resolver().url_patterns):
        parameters = set(pattern.pattern.converters)
        # tests/api pins the queries of the API's lists
        if pattern.name and parameters <= {"slug"} and not pattern.name.startswith("api-"):
            names.add(pattern.name)
    assert names - others - set(SITE_PAGES) - set(PROJECT_PAGES) == set()
    assert admin.site._registry


def _patterns(patterns, inherited=frozenset()):
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            if getattr(pattern, "app_name", None) != "admin":
                yield from _patterns(pattern.url_patterns)
        else:
            yield pattern
