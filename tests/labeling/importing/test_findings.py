"""Tests of tasks that are held until a lead decides about their findings."""

import json

import pytest

from accounts.models import AuditEntry
from labeling.importing import findings
from labeling.importing.reading import import_file
from labeling.models import Finding, Prompt, Response, Slot, Task
from labeling.queue import slots
from labeling.queue.tasks import NewTask
from tests.labeling.world import make_member, make_project

pytestmark = pytest.mark.django_db

LEAK = "I am ChatGPT, and I am happy to help."
CUT = "To make a good soup you need onions, carrots and some of the"


@pytest.fixture
def bring(project, tmp_path):
    def bring(*responses, rankings=(), prompt="How?"):
        line = {"messages": [{"role": "user", "content": prompt}],
                "responses": [{"text": text, "model": f"m{n}"} for n, text in enumerate(responses)],
                "rankings": list(rankings)}  # fmt: skip
        path = tmp_path / "data.jsonl"
        path.write_text(json.dumps(line))
        import_file(path, project=project)
        return Task.objects.order_by("-pk").first()

    return bring


def response_of(text) -> int:
    return Response.objects.get(text=text).pk


def claimed(project):
    slot = slots.claim(project=project, reviewer=make_member(project))
    return slot and slot.task


def test_a_task_with_a_finding_is_not_assigned(project, bring):
    task = bring("Fine.", LEAK, CUT)
    assert task.held and claimed(project) is None and not Slot.objects.exists()
    kinds = Finding.objects.order_by("response").values_list("kind", flat=True)
    assert list(kinds) == ["identity", "truncated"]
    assert findings.counts(project) == findings.Counts(held=1, identity=1, truncated=1)
    assert bring("Fine.", "So.", prompt="Why?") == claimed(project)


def test_an_imported_task_with_rankings_is_not_held(project, bring):
    task = bring("Fine.", LEAK, rankings=[{"reviewer": "ada", "tiers": [[0], [1]]}])
    assert not task.held and task.rankings.count() == 1
    assert Finding.objects.count() == 1 and findings.counts(project).held == 0


def test_dismissing_a_finding_releases_the_task(project, lead, bring):
    task = bring("Fine.", LEAK)
    assert findings.dismiss(project=project, response_id=response_of(LEAK), by=lead) == 1
    assert claimed(project) == task and task.slots.count() == 2
    finding = Finding.objects.get()
    assert (finding.dismissed_by, finding.dropped) == (lead, False)
    assert AuditEntry.objects.filter(action="findings dismissed", user=lead).exists()
    assert findings.dismiss(project=project, response_id=response_of(LEAK), by=lead) == 0


def test_a_task_is_held_until_its_last_finding_is_decided(project, lead, bring):
    task = bring("Fine.", LEAK, CUT)
    assert findings.dismiss(project=project, response_id=response_of(LEAK), by=lead) == 0
    assert claimed(project) is None
    assert findings.dismiss(project=project, response_id=response_of(CUT), by=lead) == 1
    assert claimed(project) == task


def test_a_task_can_be_released_unchanged(project, lead, bring):
    task = bring("Fine.", LEAK, CUT)
    other = make_project()
    assert not findings.release(project=other, task_id=task.pk, by=lead)
    assert findings.release(project=project, task_id=task.pk, by=lead)
    assert claimed(project) == task
    assert not findings.release(project=project, task_id=task.pk, by=lead)


def test_dropping_a_response_keeps_a_task_of_the_others(project, lead, bring):
    old = bring("Fine.", LEAK, "So.")
    dropped = findings.drop(project=project, response_id=response_of(LEAK), by=lead)
    assert dropped == findings.DropResult(replaced=1, ended=0)
    new = claimed(project)
    assert new != old and set(new.responses.values_list("text", flat=True)) == {"Fine.", "So."}
    assert Task.objects.get(pk=old.pk).held and findings.counts(project).held == 0
    assert Response.objects.filter(text=LEAK).exists()


def test_a_pair_that_loses_a_response_is_never_assigned(project, lead, bring):
    bring("Fine.", LEAK)
    dropped = findings.drop(project=project, response_id=response_of(LEAK), by=lead)
    assert dropped == findings.DropResult(replaced=0, ended=1)
    assert claimed(project) is None and findings.counts(project).held == 0


def test_two_bad_responses_are_dropped_one_after_the_other(project, lead, bring):
    bring("Fine.", LEAK, "So.", CUT)
    findings.drop(project=project, response_id=response_of(LEAK), by=lead)
    assert claimed(project) is None and findings.counts(project).held == 2
    findings.drop(project=project, response_id=response_of(CUT), by=lead)
    assert set(claimed(project).responses.values_list("text", flat=True)) == {"Fine.", "So."}
    assert findings.counts(project).held == 0


def test_a_task_with_a_dropped_response_is_not_imported_again(project, lead, bring):
    old = bring("Fine.", LEAK, "So.", CUT)
    findings.drop(project=project, response_id=response_of(LEAK), by=lead)
    assert findings.dismiss(project=project, response_id=response_of(CUT), by=lead) == 1
    assert set(claimed(project).responses.values_list("text", flat=True)) == {"Fine.", "So.", CUT}
    assert Task.objects.get(pk=old.pk).held


def test_decisions_apply_when_the_file_is_imported_again(project, lead, bring):
    bring("Fine.", LEAK, "So.")
    findings.drop(project=project, response_id=response_of(LEAK), by=lead)
    before = Task.objects.count()
    bring("Fine.", LEAK, "So.")
    assert Task.objects.count() == before and findings.counts(project).held == 0
    bring("Fine.", LEAK, "So.", "Thus.")
    assert Task.objects.order_by("-pk").first().held


def test_a_dismissed_response_is_not_held_again(project, lead, bring):
    bring("Fine.", LEAK)
    findings.dismiss(project=project, response_id=response_of(LEAK), by=lead)
    assert not bring("Fine.", LEAK, "So.").held


def test_findings_of_another_project_cannot_be_decided(project, lead, bring):
    bring("Fine.", LEAK)
    other, pk = make_project(), response_of(LEAK)
    assert findings.dismiss(project=other, response_id=pk, by=lead) == 0
    assert findings.drop(project=other, response_id=pk, by=lead) == findings.DropResult(0, 0)
    assert Finding.objects.get().dismissed_at is None


def test_manually_created_tasks_are_scanned_too(project):
    prompt = Prompt.objects.create(project=project, messages=[{"role": "user", "content": "?"}])
    ids = [
        Response.objects.create(prompt=prompt, text=text, model_name="m").pk for text in ("a", LEAK)
    ]
    [(pk, new)] = findings.add_tasks(project=project, tasks=[NewTask(prompt.pk, ids)])
    assert new and Task.objects.get(pk=pk).held


def test_a_blind_comparison_is_held_only_for_a_name(project):
    prompt = Prompt.objects.create(project=project, messages=[{"role": "user", "content": "?"}])
    pks = {
        text: Response.objects.create(prompt=prompt, text=text, model_name="m").pk
        for text in ("a", LEAK, CUT)
    }
    tasks = [NewTask(prompt.pk, [pks["a"], pks[other]], kind="comparison") for other in (LEAK, CUT)]
    added = findings.add_tasks(project=project, tasks=tasks, kinds=[Finding.Kind.IDENTITY])
    assert [Task.objects.get(pk=pk).held for pk, _ in added] == [True, False]


def test_the_list_has_pages(project, bring, monkeypatch):
    monkeypatch.setattr(findings, "PAGE_SIZE", 2)
    tasks = [bring("Fine.", LEAK, prompt=f"{n}?") for n in range(3)]
    shown, after = findings.page_of(project)
    assert shown == tasks[:2] and after == tasks[1].pk
    assert findings.page_of(project, after=after) == (tasks[2:], None)
