"""Two projects with a row of each kind, and a URL in each project for every URL pattern."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.urls import get_resolver
from django.utils import timezone

from accounts.models import Role, Token, User, audit
from labeling.gold import qualification
from labeling.importing import lifecycle
from labeling.models import Gold, Membership, Project, Ranking, Skip, Slot, Task
from labeling.projects import invitations
from labeling.projects.invitations import InvitationForm
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from reward.models import RewardModel, Withdrawal
from runs import kinds
from runs.models import Notice, Run, RunEvent
from tests.finetune.chat.conversing import asked
from tests.finetune.chat.conversing import start as start_chat
from tests.finetune.factory import (
    make_adapter,
    make_base,
    make_evaluation,
    make_reward_model,
    make_snapshot,
)
from tests.labeling.gold.gold_world import make_gold
from tests.labeling.world import key, make_member, make_project, make_task, one_each
from webhooks.models import Delivery, Endpoint

PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>|\(\?P<(\w+)>[^)]*\)")


@dataclass
class Side:
    """A project with a member of each role and a row for each kind of URL parameter."""

    project: Project
    reviewer: User
    lead: User
    trainer: User
    values: dict[str, Any]
    """Rows by the name of the parameter, or by the start of the URL if that is only `pk`."""

    def path(self, route: str) -> str:
        """Return the URL of a route such as `p/<slug>/data/<task_id>/` in this project."""
        return "/" + PARAMETER.sub(
            lambda match: str(self._value(route, match[1] or match[2])), route
        )

    def _value(self, route: str, name: str) -> Any:
        if name == "app_label":
            return "labeling"
        if name in ("object_id", "id") and (model := _admin_model(route)):
            return self._row(model)
        starts = [key for key in self.values if key.endswith("/") and route.startswith(key)]
        if name == "name" and route.startswith("v1/"):
            return self.project.slug
        if name == "key" and route.startswith("invitation/"):
            return self.values["invitation"]
        if name == "rest" and route.startswith("v1/"):
            return "embeddings"
        if name == "kind" and route.startswith("p/"):
            return "task"
        result = (
            self.values.get(max(starts, key=len)) if name in ("pk", "number") and starts else None
        )
        result = self.values.get(name) if result is None else result
        assert result is not None, f"Say in make_side which {name} the address {route} names."
        return result

    def _row(self, model: type[Model]) -> Any:
        """Return the key of a row of the project, or of any row in tables without a project."""
        from django.contrib import admin

        model_admin = admin.site._registry[model]
        path = getattr(model_admin, "project_path", None)
        if path is None and any(field.name == "project" for field in model._meta.fields):
            path = "project"
        if path is None and hasattr(model_admin, "run_path"):
            path = f"{model_admin.run_path}__project"
        rows = model._default_manager.order_by("pk")
        if model is Project:
            return self.project.pk
        row = (rows.filter(**{path: self.project}) if path else rows).first()
        assert row is not None, f"Let make_side make a {model._meta.verbose_name}."
        return row.pk


def _admin_model(route: str) -> type[Model] | None:
    from django.apps import apps

    _, app, name, *_ = [*route.split("/"), "", ""]
    return apps.get_model(app, name) if app in apps.app_configs and name else None


def make_side(name: str) -> Side:
    project = make_project(rankings_per_task=2, revision_hours=1)
    project.name = project.slug = name
    project.save(update_fields=["name", "slug"])
    reviewer, lead = make_member(project), make_member(project, Membership.Role.LEAD)
    for task in (make_task(project), make_task(project)):
        slot = slots.claim(project=project, reviewer=reviewer)
        assert slot is not None and slot.task_id == task.pk
        if not Ranking.objects.filter(reviewer=reviewer).exists():
            recording.submit(
                slot_id=slot.pk,
                reviewer=reviewer,
                idempotency_key=key(),
                content=Content(one_each(task)),
            )
    ranking = Ranking.objects.get(reviewer=reviewer)
    gold = make_gold(project, Gold.Purpose.CHECK)
    snapshot = make_snapshot(project, prompts=2)
    adapter = make_adapter(make_base(project), snapshot)
    withdrawal = Withdrawal.objects.create(project=project, kind="reviewer")
    evaluation = make_evaluation(adapter)
    make_base(project).promote(by=None)
    certificate = project.certificates.get()
    token, _ = Token.issue(user=lead, name="own", project=project)
    endpoint = Endpoint.objects.create(
        project=project, url="https://hooks.example.org/", events=["run.ended"], created_by=lead
    )
    delivery = Delivery.objects.create(
        endpoint=endpoint, event="run.ended", subject="1", created_at=timezone.now()
    )
    conversation = start_chat(lead, adapter, make_base(project))
    asked(conversation)
    reward_model = make_reward_model(snapshot, state=RewardModel.State.PROMOTED)
    Run.objects.filter(project=None).update(project=project)
    file_import = lifecycle.receive([b"{}\n"], user=lead, project=project, name="a")
    skip = Skip.objects.create(task=ranking.task, reviewer=make_member(project), reason="unclear")
    qualification.ensure(project=project, reviewer=reviewer)
    version = project.current_version
    assert version is not None
    form = InvitationForm({"role": "reviewer", "max_uses": 9, "days": 7}, project=project, by=lead)
    assert form.is_valid()
    invitation, path = invitations.create(form=form)
    invitation_key = path.split("/")[-2]
    values = {
        "slug": project.slug,
        "task_id": ranking.task_id,
        "gold_id": gold.pk,
        "user_id": reviewer.pk,
        "ranking_id": ranking.pk,
        "skip_id": skip.pk,
        "slot_id": Slot.objects.get(reviewer=reviewer, ranking=None).pk,
        "key": file_import.key,
        "run_id": adapter.run_id,
        "kind": kinds.all_kinds()[0].name,
        "snapshots/": snapshot.pk,
        "models/reward/": reward_model.pk,
        "models/evaluations/": evaluation.pk,
        "models/certificates/": certificate.pk,
        "models/": adapter.pk,
        "chats/": conversation.pk,
        "turn_number": 1,
        "p/": ranking.task_id,
        "p/<slug>/withdrawals/": withdrawal.pk,
        "people/": reviewer.pk,
        "invitation": invitation_key,
        "p/<slug>/members/": invitation.pk,
        "session_id": 1,
        "security/": 0,
        "provider_id": "no-such-provider",
        "organization_slug": "no-such-provider",
        "prompt_id": ranking.task.prompt_id,
        "admin/labeling/guidelineversion/": version.pk,
        "content_type_id": ContentType.objects.get_for_model(Task).pk,
        "object_id": ranking.task_id,
        "uidb64": "MQ",
        "token": "no-such-token",
        "url": "no-such-page",
        "rest": "no-such-page",
        "path": "no-such-file",
        "number": version.number,
        "username": reviewer.username,
        "token_id": token.pk,
        "webhook_id": endpoint.pk,
        "delivery_id": delivery.pk,
        "delivery": delivery.pk,
        "api/v1/projects/<slug>/webhooks/": endpoint.pk,
        "action": "archive",
        "api/v1/projects/<slug>/tasks/": ranking.task_id,
        "api/v1/projects/<slug>/rankings/": ranking.pk,
        "api/v1/runs/": adapter.run_id,
        "api/v1/snapshots/": snapshot.pk,
        "api/v1/models/": adapter.pk,
        "api/v1/reward-models/": reward_model.pk,
        "api/v1/evaluations/": evaluation.pk,
    }
    run = Run.objects.filter(project=project).earliest("pk")
    RunEvent.objects.create(run=run, number=1, at=timezone.now(), event="message", data={})
    Notice.objects.create(run=run, channel=Notice.Channel.EMAIL, ended_at=timezone.now())
    trainer = make_member(project, Membership.Role.TRAINER)
    return Side(project, reviewer, lead, trainer, values)


def make_people() -> dict[str, User]:
    """Return a trainer of all projects and an administrator, who are members of no project."""
    trainer = User.objects.create(username="trainer", role=Role.TRAINER, all_projects=True)
    administrator = User.objects.create(username="administrator", is_superuser=True)
    Token.issue(user=trainer, name="first")
    audit(administrator, "token issued", trainer)
    return {"trainer": trainer, "administrator": administrator}


def routes() -> Iterator[str]:
    """Yield every URL pattern as text, such as `p/<slug>/data/<task_id>/`."""
    names = set()
    for route in _routes(get_resolver().url_patterns, ""):
        if route not in names:
            yield route
        names.add(route)


def _routes(patterns: Any, prefix: str) -> Iterator[str]:
    for pattern in patterns:
        text = prefix + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            yield from _routes(pattern.url_patterns, text)
        else:
            plain = text.replace("^", "").replace("$", "")
            yield PARAMETER.sub(lambda match: f"<{match[1] or match[2]}>", plain)
