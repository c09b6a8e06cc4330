"""Tests of gold from files, from the command and from the admin."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Role
from labeling.gold import making, qualification, schedule
from labeling.guidelines import versions
from labeling.importing.reading import import_file
from labeling.importing.records import BadInput
from labeling.models import Adjudication, Gold, GuidelineVersion, Slot, Task
from labeling.queue import slots
from tests.clients import signed_in
from tests.labeling.gold.gold_world import answer, make_gold
from tests.labeling.world import ids, make_member, make_project, make_task, make_user

pytestmark = pytest.mark.django_db

LINE = {
    "messages": [{"role": "user", "content": "Where is my lamp?"}],
    "responses": [
        {"text": "On Monday.", "model": "a"}, {"text": "No.", "model": "b"},
        {"text": "Soon.", "model": "a"},
    ],
    "gold": {
        "constraints": [{"kind": "above", "a": 0, "b": 1}, {"kind": "unacceptable", "a": 1}],
        "purpose": "training",
        "explanation": "It names a day.",
    },
}  # fmt: skip


def imported(project, tmp_path, *lines):
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return import_file(path, project=project)


# --- a file --------------------------------------------------------------------------------------


def test_a_line_with_gold_becomes_gold_and_no_queued_task(project, tmp_path):
    assert imported(project, tmp_path, LINE).tally.read["gold tasks"] == 1
    gold = Gold.objects.get()
    first, second, _third = ids(gold.task)
    assert gold.constraints == [
        {"kind": "above", "a": first, "b": second},
        {"kind": "unacceptable", "a": second},
    ]
    assert (gold.purpose, gold.explanation, gold.project) == (
        "training",
        "It names a day.",
        project,
    )
    assert Task.objects.get().kind == "gold" and not Slot.objects.exists()
    making.retire(gold=gold, by=None)
    imported(project, tmp_path, LINE)  # again: what is known already stays as it is
    assert Gold.objects.get().retired_at and Task.objects.count() == 1


def test_gold_in_a_file_may_name_responses_by_id(project, tmp_path):
    responses = [dict(item, id=f"r{n}") for n, item in enumerate(LINE["responses"])]
    text = {"constraints": [{"kind": "above", "a": "r2", "b": "r0"}]}
    imported(project, tmp_path, {**LINE, "responses": responses, "gold": text})
    gold = Gold.objects.get()
    first, _second, third = ids(gold.task)
    assert gold.constraints == [{"kind": "above", "a": third, "b": first}]
    assert gold.purpose == "check"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"constraints": []}, "Line 1: its gold is refused. Add at least one constraint"),
        ({"constraints": [{"kind": "above", "a": 0, "b": 7}]}, "Line 1: there is no response 7"),
        ({"constraints": [{"kind": "best", "a": 0}]}, "Line 1: its gold is refused. Constraint 1"),
        ({"constraints": ["A"]}, "Constraint 1: it must be an object"),
        ({"constraint": []}, 'Line 1: "gold" has unknown keys: constraint'),
        (
            {"constraints": [{"kind": "unacceptable", "a": 0}], "purpose": "fun"},
            "The purpose of gold must be one of",
        ),
    ],
)
def test_invalid_gold_in_a_line_refuses_the_file(project, tmp_path, said, sentence):
    with pytest.raises(BadInput) as refused:
        imported(project, tmp_path, {**LINE, "gold": said})
    assert sentence in str(refused.value)
    assert not Task.objects.exists() and not Gold.objects.exists()


def test_held_gold_is_not_assigned():
    project = make_project(gold_percent=50)
    item, reviewer = make_gold(project), make_member(project)
    assert schedule.remaining(project, reviewer) == [item.task_id]
    Task.objects.filter(pk=item.task_id).update(held=True)
    assert schedule.remaining(project, reviewer) == []


# --- the command ---------------------------------------------------------------------------------


def run(project, *args):
    out = StringIO()
    call_command("gold", "--project", project.slug, *args, stdout=out)
    return out.getvalue()


def test_the_command_shows_how_gold_is_answered(project):
    gold = make_gold(project)
    reviewers = [make_member(project) for _ in range(3)]
    for number, reviewer in enumerate(reviewers):
        slot = slots.lease_new_slot(task=gold.task, reviewer=reviewer)
        answer(slot, reviewer, right=not number)
    assert "1 of 3 right, 6% to 79%, suspect" in run(project)
    payload = json.loads(run(project, "--json"))
    [row] = payload["gold"]
    assert (row["id"], row["right"], row["asked"], row["suspect"]) == (gold.pk, 1, 3, True)
    assert payload["reviewers"][reviewers[0].username]["right"] == 1


def test_the_command_makes_gold_of_adjudicated_or_ranked_tasks_and_retires_it(project):
    lead = make_member(project, Role.LEAD)
    task, other = make_task(project), make_task(project)
    first, *_ = tiers = [[i] for i in ids(task)]
    with pytest.raises(CommandError, match="was not adjudicated"):
        run(project, "--make", str(task.pk))
    Adjudication.objects.create(task=task, tiers=tiers, cut=2, cause="close", by=lead)
    run(project, "--make", str(task.pk), "--dry-run")
    assert not Gold.objects.exists()
    run(project, "--make", str(task.pk), "--purpose", "qualification")
    gold = Gold.objects.get()
    assert gold.purpose == "qualification" and gold.constraints[0]["a"] == first[0]
    slot = slots.claim(project=project, reviewer=lead)
    ranking = answer(slot, lead)
    run(project, "--make", str(other.pk), "--ranking", str(ranking.pk))
    assert Gold.objects.count() == 2
    run(project, "--retire", str(gold.pk))
    gold.refresh_from_db()
    assert gold.retired_at


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--make", "0"], "no task 0"),
        (["--retire", "0"], "no gold 0"),
        (["--make", "TASK", "--ranking", "0"], "no ranking 0"),
    ],
)
def test_the_command_explains_errors(project, args, sentence):
    task = make_task(project)
    with pytest.raises(CommandError, match=sentence):
        run(project, *[arg.replace("TASK", str(task.pk)) for arg in args])
    with pytest.raises(CommandError, match="There is no project"):
        call_command("gold", "--project", "nowhere")


# --- the admin -----------------------------------------------------------------------------------


def test_the_admin_changes_constraints_and_refuses_invalid_ones(project):
    gold = make_gold(project)
    a, b, _c = ids(gold.task)
    client = signed_in(make_member(project, Role.LEAD))
    page = reverse("admin:labeling_gold_change", args=[gold.pk])
    assert f"A is response {a}" in client.get(page).content.decode()
    data = {"purpose": "training", "explanation": "So.", "constraints": '[{"kind": "up"}]'}
    assert "an object whose kind" in client.post(page, data).content.decode()
    data["constraints"] = json.dumps([{"kind": "above", "a": b, "b": a}])
    assert client.post(page, data).status_code == 302
    gold.refresh_from_db()
    assert (gold.purpose, gold.constraints[0]["a"]) == ("training", b)
    elsewhere = signed_in(make_member(make_project(), Role.LEAD))
    assert elsewhere.post(page, {**data, "purpose": "check"}).status_code == 302
    gold.refresh_from_db()
    assert gold.purpose == "training"


def test_the_admin_can_retire_but_not_add_or_delete_gold(project):
    gold = make_gold(project)
    client = signed_in(make_user(Role.TRAINER))
    listed = reverse("admin:labeling_gold_changelist")
    client.post(listed, {"action": "retire", "_selected_action": [gold.pk]})
    gold.refresh_from_db()
    assert gold.retired_at
    assert client.get(reverse("admin:labeling_gold_add")).status_code == 403
    deleted = client.post(reverse("admin:labeling_gold_delete", args=[gold.pk]), {"post": "yes"})
    assert deleted.status_code == 403
    assert client.get(reverse("admin:labeling_qualification_changelist")).status_code == 200


def test_a_guideline_version_can_require_a_new_qualification(project):
    client = signed_in(make_member(project, Role.LEAD))
    draft = versions.create_draft(project=project, by=None, text="New.", criteria=[])
    page = reverse("admin:labeling_guidelineversion_change", args=[draft.pk])
    data = {
        "guideline": draft.guideline_id, "text": "New.", "change_note": "", "requalify": "on",
        "criteria-TOTAL_FORMS": "0", "criteria-INITIAL_FORMS": "0",
    }  # fmt: skip
    client.post(page, data)
    assert GuidelineVersion.objects.get(pk=draft.pk).requalify
    publish = client.get(reverse("admin:labeling_guidelineversion_publish", args=[draft.pk]))
    assert "ends every qualification" in publish.content.decode()


@pytest.mark.parametrize(("model", "most"), [("gold", 9), ("qualification", 8)])
def test_the_number_of_queries_of_an_admin_list_is_constant(model, most):
    client, counts = signed_in(make_user(is_superuser=True)), []
    client.get(reverse(f"admin:labeling_{model}_changelist"))
    for _ in range(2):
        for _ in range(3):
            project = make_project(qualification_percent=50)
            make_gold(project, "qualification")
            qualification.ensure(project=project, reviewer=make_member(project))
        with CaptureQueriesContext(connection) as queries:
            client.get(reverse(f"admin:labeling_{model}_changelist"))
        counts.append(len(queries))
    assert counts[0] == counts[1] <= most
