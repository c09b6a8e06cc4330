"""Tests that leads cannot see or change other projects in the admin.

They cover lists, filters, searches, pages of a row, history, actions, foreign keys and inlines of
every registered model with a project.
"""

import json
from itertools import product

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, Role
from labeling.admin.big_tables import OwnChoicesMixin, OwnProjectsAdmin
from labeling.gold import making
from labeling.guidelines import versions
from labeling.models import Membership, Project, Prompt, Response
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.labeling.world import (
    ids,
    make_member,
    make_project,
    make_task,
    make_user,
    one_each,
)

pytestmark = pytest.mark.django_db

OWN = {
    model: model_admin
    for model, model_admin in admin.site._registry.items()
    if isinstance(model_admin, OwnProjectsAdmin) and model._meta.app_label == "labeling"
}
NAMES = sorted(model._meta.model_name for model in OWN)


class World:
    """Create project A with rows, and project B with its lead signed in."""

    def __init__(self) -> None:
        self.theirs = make_project(description="secret")
        Project.objects.filter(pk=self.theirs.pk).update(name="The secret project")
        self.theirs.refresh_from_db()
        self.own = make_project()
        self.lead = make_member(self.own, Role.LEAD)
        self.client = Client()
        self.client.force_login(self.lead)
        fill(self.theirs)
        fill(self.own)


def fill(project: Project) -> None:
    task, reviewer = make_task(project), make_member(project)
    Prompt.objects.filter(pk=task.prompt_id).update(
        messages=[{"role": "user", "content": f"Words of {project.name}"}]
    )
    recording.record(task=task, reviewer=reviewer, source="import", content=Content(one_each(task)))
    task.skips.create(reviewer=make_member(project), reason="other")
    versions.draft_from(version=project.current_version, by=None)
    first, second, *_ = ids(task)
    making.make(task=task, constraints=[{"kind": "above", "a": first, "b": second}])
    version = project.current_version
    project.qualifications.create(reviewer=reviewer, version=version)


@pytest.fixture
def world() -> World:
    return World()


def model_named(name):
    return next(model for model in OWN if model._meta.model_name == name)


def rows(name, project):
    model = model_named(name)
    return model.objects.filter(**{OWN[model].project_path: project.pk})


def page(name, what, *args):
    return reverse(f"admin:labeling_{name}_{what}", args=args)


def test_every_admin_of_the_package_is_one_of_them():
    others = {
        model._meta.model_name
        for model in admin.site._registry
        if model._meta.app_label == "labeling" and model not in OWN
    }
    assert others == set()
    for model_admin in OWN.values():
        for inline in model_admin.inlines:
            relations = [
                field.name
                for field in inline.model._meta.fields
                if field.remote_field and field.name not in (inline.readonly_fields or ())
            ]
            choices = set(relations) & set(inline.fields or relations)
            offered = choices - {model_admin.opts.model_name, "user"}
            assert not offered or issubclass(inline, OwnChoicesMixin), (inline, offered)


def test_lists_filters_and_searches_show_only_own_projects(world):
    for name in NAMES:
        assert rows(name, world.theirs).exists(), f"no {name}, so the tests would prove nothing"
    number = world.theirs.tasks.first().pk
    for name, query in product(NAMES, ({}, {"q": "secret"}, {"q": str(number)})):
        answer = world.client.get(page(name, "changelist"), query)
        assert answer.status_code == 200
        assert "secret project" not in answer.content.decode(), name
        listed = {row.pk for row in answer.context["cl"].result_list}
        assert not listed & set(rows(name, world.theirs).values_list("pk", flat=True))


def test_a_filter_by_a_foreign_project_finds_nothing(world):
    for name in NAMES:
        path = OWN[model_named(name)].project_path
        answer = world.client.get(page(name, "changelist"), {f"{path}__id__exact": world.theirs.pk})
        assert answer.status_code == 302 or not answer.context["cl"].result_list, name


def test_the_pages_of_a_foreign_row_do_not_open(world):
    for name, what in product(NAMES, ("change", "delete", "history")):
        row, count = rows(name, world.theirs).first(), rows(name, world.theirs).count()
        for send in (world.client.get, world.client.post):
            answer = send(page(name, what, row.pk), {"post": "yes"})
            assert answer.status_code in {302, 403}, (name, what)
            assert "secret" not in answer.content.decode()
        assert rows(name, world.theirs).count() == count


def test_no_action_reaches_a_foreign_row(world):
    request = world.client.get("/").wsgi_request
    before = {name: list(rows(name, world.theirs).values()) for name in NAMES}
    for name in NAMES:
        row = rows(name, world.theirs).first()
        for action in OWN[model_named(name)].get_actions(request):
            form = {"action": action, "_selected_action": [row.pk], "post": "yes"}
            answer = world.client.post(page(name, "changelist"), form, follow=True)
            assert "secret" not in answer.content.decode()
    assert {name: list(rows(name, world.theirs).values()) for name in NAMES} == before


def test_a_response_cannot_be_added_to_a_foreign_prompt(world):
    prompt = world.theirs.prompts.first()
    form = {"prompt": prompt.pk, "text": "Mine.", "model_name": "m", "sampling": "{}"}
    answer = world.client.post(page("response", "add"), form)
    assert "Select a valid choice" in answer.content.decode()
    assert not Response.objects.filter(text="Mine.").exists()
    form["prompt"] = world.own.prompts.first().pk
    assert world.client.post(page("response", "add"), form).status_code == 302
    assert Response.objects.get(text="Mine.").prompt.project == world.own


def test_prompts_and_guidelines_cannot_be_added_to_a_foreign_project(world):
    messages = json.dumps([{"role": "user", "content": "Mine?"}])
    form = {"project": world.theirs.pk, "messages": messages, "meta": "{}"}
    answer = world.client.post(page("prompt", "add"), form).content.decode()
    assert "Select a valid choice" in answer and "secret" not in answer
    empty = make_project(published=False, description="secret")
    form = {
        "project": empty.pk, "title": "Mine", "versions-TOTAL_FORMS": 0, "versions-INITIAL_FORMS": 0,
    }  # fmt: skip
    answer = world.client.post(page("guideline", "add"), form).content.decode()
    assert "Select a valid choice" in answer and "secret" not in answer
    assert not empty.memberships.exists() and not world.theirs.prompts.filter(meta="Mine").exists()


def every_choice():
    """Yield each foreign key from a model of the admin to one with a project."""
    for model in admin.site._registry:
        for field in model._meta.fields:
            if field.remote_field and field.remote_field.model in OWN:
                yield model, field


def test_no_form_accepts_a_foreign_row(world):
    request = world.client.get("/").wsgi_request
    for model, field in every_choice():
        model_admin, target = admin.site._registry[model], field.remote_field.model
        if not isinstance(model_admin, OwnChoicesMixin):
            continue  # its pages only show rows
        choices = model_admin.formfield_for_foreignkey(field, request).queryset
        accepted = set(choices.values_list("pk", flat=True))
        foreign = rows(target._meta.model_name, world.theirs).values_list("pk", flat=True)
        own = rows(target._meta.model_name, world.own).values_list("pk", flat=True)
        assert not accepted & set(foreign), field
        assert accepted >= set(own), field


def test_autocomplete_offers_no_foreign_row(world):
    for (model, field), term in product(every_choice(), ("secret", "")):
        query = {
            "app_label": model._meta.app_label, "model_name": model._meta.model_name,
            "field_name": field.name, "term": term,
        }  # fmt: skip
        answer = world.client.get(reverse("admin:autocomplete"), query)
        assert "secret" not in answer.content.decode(), field


def test_a_filter_on_another_relation_is_refused(world):
    for lookup in ("project__memberships__user__username", "project__name__startswith"):
        answer = world.client.get(page("prompt", "changelist"), {lookup: "The"})
        assert answer.status_code in {302, 400}


def test_an_inline_cannot_move_a_foreign_membership(world):
    foreign = world.theirs.memberships.first()
    project = world.own
    form = {name: str(value) for name, value in vars(project).items() if value is not False}
    form |= {
        "memberships-TOTAL_FORMS": "1", "memberships-INITIAL_FORMS": "1",
        "memberships-0-id": foreign.pk, "memberships-0-project": project.pk,
        "memberships-0-user": world.lead.pk, "memberships-0-role": "lead",
    }  # fmt: skip
    for name in ("archived_at",):
        form.pop(name)
    world.client.post(page("project", "change", project.pk), form)
    foreign.refresh_from_db()
    assert foreign.project == world.theirs and foreign.user != world.lead


def test_a_trainer_of_all_projects_sees_every_project(world):
    trainer = Client()
    trainer.force_login(make_user(Role.TRAINER))
    answer = trainer.get(page("prompt", "changelist")).content.decode()
    assert "The secret project" in answer


# --- the audit trail of the admin ----------------------------------------------------------------


def test_changes_of_prompts_in_the_admin_are_audited(world):
    messages = json.dumps([{"role": "user", "content": "A new one?"}])
    form = {"project": world.own.pk, "messages": messages, "meta": "{}"}
    world.client.post(page("prompt", "add"), form)
    prompt = Prompt.objects.latest("id")
    entry = AuditEntry.objects.get(action="prompt added")
    assert (entry.user, entry.details["id"]) == (world.lead, prompt.pk)
    world.client.post(page("prompt", "delete", prompt.pk), {"post": "yes"})
    if not Prompt.objects.filter(pk=prompt.pk).exists():
        assert AuditEntry.objects.get(action="prompt deleted").details["id"] == prompt.pk


def test_changes_of_members_in_the_admin_are_audited(world):
    project, newcomer = world.own, make_user()
    form = {name: str(value) for name, value in vars(project).items() if value is not False}
    form.pop("archived_at")
    members = list(project.memberships.order_by("pk"))
    form |= {
        "memberships-TOTAL_FORMS": len(members) + 1, "memberships-INITIAL_FORMS": len(members),
    }  # fmt: skip
    for number, member in enumerate(members):
        form |= {
            f"memberships-{number}-id": member.pk, f"memberships-{number}-project": project.pk,
            f"memberships-{number}-user": member.user_id, f"memberships-{number}-role": member.role,
        }  # fmt: skip
    new = f"memberships-{len(members)}"
    form |= {
        f"{new}-project": project.pk, f"{new}-user": newcomer.pk, f"{new}-role": "trainer",
        "memberships-1-DELETE": "on",
    }  # fmt: skip
    answer = world.client.post(page("project", "change", project.pk), form)
    assert "Only trainers of the project" in answer.content.decode()
    assert not Membership.objects.filter(user=newcomer).exists()
    form[f"{new}-role"] = "reviewer"
    answer = world.client.post(page("project", "change", project.pk), form)
    assert answer.status_code == 302
    added = AuditEntry.objects.get(action="member added", user=world.lead)
    assert added.details == {"person": newcomer.username, "role": "reviewer"}
    removed = AuditEntry.objects.get(action="member removed", user=world.lead)
    assert removed.details["person"] == members[1].user.username
