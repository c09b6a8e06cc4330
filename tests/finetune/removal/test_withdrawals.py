"""Withdrawn data: what it reached, empty rows, burned pseudonyms, marked models and new runs."""

import json

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone

from accounts.models import AuditEntry, Role, audit
from finetune.models import Model
from finetune.removal import deletion, erasing, tracing
from finetune.removal.erasing import CannotErase
from labeling.models import Adjudication, Ranking, Skip, Slot
from recipes.preferences.groups import read_groups
from reward.models import BurnedPseudonym, Pseudonym, Withdrawal
from reward.preferences.pseudonyms import burn, pseudonyms
from reward.preferences.snapshots import SnapshotFilter, freeze
from reward.promotion import CannotMove
from runs import services
from runs.models import Run, State
from runs.supervision import workspace
from tests.finetune.factory import (
    laid_out,
    make_adapter,
    make_base,
    make_evaluation,
    make_reward_model,
    make_run,
)
from tests.reward.factory import join, make_prompt, make_task, make_user, rank
from tests.reward.pages.test_pages import LOOKING, statuses

pytestmark = pytest.mark.django_db


@pytest.fixture
def reviewer(project):
    return make_user()


@pytest.fixture
def other(project):
    return make_user()


@pytest.fixture
def snapshot(project, reviewer, other):
    """Return a snapshot of four tasks: two ranked by both, and one by each of the two reviewers."""
    tasks = [make_task(make_prompt(project)) for _ in range(4)]
    for task in tasks[:3]:
        rank(task, reviewer, rationale="Because.")
    for task in [*tasks[:2], tasks[3]]:
        rank(task, other)
    return freeze(project=project, filter=SnapshotFilter(test_fraction=0.0), by=None)


@pytest.fixture
def lineage(snapshot):
    """Return an adapter, its merged model, an adapter of that, and a model trained with a reward."""
    base = make_base(snapshot.project)
    adapter = make_adapter(base, snapshot)
    merged = make_base(snapshot.project, parent=adapter, name="merged")
    later = make_adapter(merged, snapshot, name="later")
    Model.objects.filter(pk=later.pk).update(snapshot=None)
    reward_model = make_reward_model(snapshot)
    online = make_adapter(base, snapshot, name="online")
    Run.objects.filter(pk=online.run_id).update(inputs={"reward_model": reward_model.pk})
    Model.objects.filter(pk=online.pk).update(snapshot=None)
    return adapter, merged, later, reward_model, online


def names_in(snapshot):
    return {r.reviewer for group in read_groups(snapshot.file) for r in group.rankings}


# --- tracing -------------------------------------------------------------------------------------


def test_the_trace_follows_merges_further_adapters_and_reward_models(project, reviewer, lineage):
    adapter, merged, later, reward_model, online = lineage
    evaluation = make_evaluation(adapter)
    make_base(project, name="untouched")
    audit(None, "data exported", project, file="a.jsonl")
    result = {"repo": "acme/lamps", "branch": "main"}
    push = make_run("push", inputs={"model": merged.pk}, result=result)
    make_run("push", inputs={"model": merged.pk}, state=State.FAILED)
    trace = tracing.trace_of_reviewer(project, reviewer)
    assert {model.pk for model in trace.models} == {m.pk for m in (adapter, merged, later, online)}
    assert trace.reward_models == [reward_model]
    assert trace.evaluations == [evaluation]
    assert trace.pushes == [push]
    assert [entry.details["file"] for entry in trace.exports] == ["a.jsonl"]
    assert not any(tracing.trace_of_reviewer(project, make_user()).numbers().values())


def test_the_trace_of_a_prompt_has_the_same_rows(snapshot, lineage):
    prompt = Ranking.objects.first().task.prompt
    trace = tracing.trace_of(prompt)
    assert trace.snapshots == [snapshot] and len(trace.models) == 4


# --- withdrawing ---------------------------------------------------------------------------------


def test_rankings_become_empty_rows_of_nobody(project, reviewer, other, snapshot, admin):
    task = Ranking.objects.filter(reviewer=reviewer).first().task
    Skip.objects.create(task=task, reviewer=reviewer, reason="other", note="mine")
    Adjudication.objects.create(task=task, tiers=[], cause="close", by=reviewer)
    join(project, reviewer)
    erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    assert not Ranking.objects.filter(reviewer=reviewer).exists()
    for row in Ranking.objects.exclude(removed_at=None):
        assert (row.tiers, row.rationale, row.shown_order, row.cut) == ([], "", [], None)
        assert row.superseded_at is not None
    assert Ranking.objects.exclude(removed_at=None).count() == 3
    assert Ranking.objects.filter(reviewer=other, removed_at=None).count() == 3
    assert not Skip.objects.filter(reviewer=reviewer).exists()
    assert not Adjudication.objects.filter(by=reviewer).exists()
    assert not project.memberships.filter(user=reviewer).exists()


def test_the_tasks_return_to_the_queue_without_a_trace_of_the_reviewer(
    project, reviewer, snapshot, admin
):
    ranking = Ranking.objects.filter(reviewer=reviewer).first()
    slot = Slot.objects.filter(task=ranking.task).first() or Slot.objects.create(
        task=ranking.task, project=project, number=1, priority=0, position=1
    )
    Slot.objects.filter(pk=slot.pk).update(
        reviewer=reviewer, ranking=ranking, past_reviewers=[reviewer.pk, 5]
    )
    erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    slot.refresh_from_db()
    assert (slot.reviewer_id, slot.ranking_id) == (None, None)
    assert reviewer.pk not in (slot.past_reviewers or [])


def test_snapshots_and_run_folders_lose_the_rankings(project, reviewer, other, snapshot, admin):
    run = make_run("dpo", inputs={"snapshot": snapshot.pk}, project=project)
    run_dir = laid_out(run)
    run_dir.data.mkdir(exist_ok=True)
    copy = run_dir.data / "preferences.parquet"
    copy.write_bytes(snapshot.file.read_bytes())
    pseudonym = pseudonyms(project)(reviewer.pk)
    assert pseudonym in names_in(snapshot)
    (run_dir.path / "notes.txt").write_text(f"by {pseudonym}")
    before = snapshot.content_hash
    erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    snapshot.refresh_from_db()
    assert snapshot.content_hash != before
    assert names_in(snapshot) == {pseudonyms(project)(other.pk)}
    groups = list(read_groups(snapshot.file))
    assert len(groups) == 3  # the fourth had only rankings of the reviewer
    assert all(len(g.rankings) == len(g.meta["ranking_ids"]) == 1 for g in groups)
    assert {r.reviewer for g in read_groups(copy) for r in g.rankings} == names_in(snapshot)
    files = [p for p in workspace.run_dir_of(run).path.rglob("*") if p.is_file()]
    assert not any(pseudonym.encode() in p.read_bytes() for p in files)


def test_a_new_snapshot_counts_the_empty_rows(project, reviewer, snapshot, admin):
    erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    newer = freeze(project=project, filter=SnapshotFilter(test_fraction=0.0), by=None)
    assert newer.counts["left_out"] == {"removed": 3} and newer.counts["used"] == 3


def test_withdrawing_is_refused_without_side_effects(project, reviewer, snapshot, admin):
    with pytest.raises(CannotErase, match="administrator"):
        erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=make_user(Role.TRAINER))
    with pytest.raises(CannotErase, match="has no rankings"):
        erasing.withdraw_reviewer(project=project, reviewer=make_user(), by=admin)
    make_run("dpo", project=project, state="queued", finished_at=None)
    with pytest.raises(CannotErase, match="not finished"):
        erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    assert not Withdrawal.objects.exists() and not BurnedPseudonym.objects.exists()
    assert Ranking.objects.filter(reviewer=reviewer).count() == 3


# --- pseudonyms ----------------------------------------------------------------------------------


def test_a_burned_pseudonym_is_never_given_out_again_and_others_keep_theirs(
    project, reviewer, other, snapshot, admin
):
    mine, others = pseudonyms(project)(reviewer.pk), pseudonyms(project)(other.pk)
    erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    assert list(BurnedPseudonym.objects.values_list("name", flat=True)) == [mine]
    assert pseudonyms(project)(other.pk) == others
    assert pseudonyms(project)(reviewer.pk) not in {mine, others}
    with pytest.raises(IntegrityError, match="never given out again"), transaction.atomic():
        Pseudonym.objects.create(project=project, reviewer=reviewer, name=mine)
    for change in (
        lambda: BurnedPseudonym.objects.update(name="r-0"),
        lambda: BurnedPseudonym.objects.all().delete(),
    ):
        with pytest.raises(IntegrityError, match="never given out again"), transaction.atomic():
            change()


def test_a_pseudonym_that_is_taken_is_skipped(project, reviewer):
    names = pseudonyms(project)
    first = names(reviewer.pk)
    names.names.clear()
    assert names(reviewer.pk) != first


def test_nothing_links_a_burned_pseudonym_to_the_account(project, reviewer, snapshot, admin):
    mine = pseudonyms(project)(reviewer.pk)
    erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    assert not Pseudonym.objects.filter(reviewer=reviewer).exists()
    entry = AuditEntry.objects.get(action="reviewer's data withdrawn")
    assert reviewer.username not in json.dumps([entry.subject, entry.details])
    assert mine not in json.dumps([entry.subject, entry.details])
    assert all(mine != pseudonyms(project)(pk) for pk in range(reviewer.pk + 5))


def test_burning_twice_gives_a_third_pseudonym(project, reviewer, snapshot):
    seen = set()
    for _ in range(3):
        seen.add(pseudonyms(project)(reviewer.pk))
        burn(project=project, reviewer=reviewer)
    assert len(seen) == 3 == BurnedPseudonym.objects.count()


# --- marks and new runs --------------------------------------------------------------------------


def test_models_are_marked_and_the_policy_keeps_them_from_being_promoted(
    project, reviewer, lineage, admin
):
    adapter, merged, later, reward_model, online = lineage
    assert adapter.withdrawals() == []
    row = erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    for model in (adapter, merged, later, reward_model, online):
        assert type(model).objects.get(pk=model.pk).withdrawals() == [row]
    make_evaluation(adapter, verdicts=[1.0] * 12)
    type(project).objects.update(promotion_policy="judge")
    adapter = Model.objects.get(pk=adapter.pk)
    with pytest.raises(CannotMove, match="trained on data that was withdrawn later"):
        adapter.promote(by=None)
    type(project).objects.update(promote_withdrawn=True)
    Model.objects.get(pk=adapter.pk).promote(by=None)


def test_a_model_trained_on_the_cleaned_snapshot_is_not_marked(project, reviewer, lineage, admin):
    adapter = lineage[0]
    erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    fresh = make_adapter(make_base(project), adapter.snapshot)
    assert fresh.withdrawals() == [] and fresh.doubts_about_data() == []


def test_erasing_a_prompt_marks_its_models_too(lineage, admin):
    prompt = Ranking.objects.first().task.prompt
    row = erasing.erase(content=prompt, by=admin)
    assert (row.kind, row.prompt) == ("prompt", prompt)
    assert [model.withdrawals() for model in lineage] == [[row]] * 5


def test_the_page_offers_to_train_again_and_starts_the_same_run(
    client, people, project, reviewer, lineage, admin, monkeypatch
):
    adapter, _, later, reward_model, _ = lineage
    result = {"repo": "acme/lamps", "branch": "main"}
    push = make_run("push", inputs={"model": later.pk}, result=result)
    row = erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    plans = {str(r.model): r for r in tracing.retrainings_of(tracing.trace_of_withdrawal(row))}
    assert plans[adapter.name].obstacle == plans[reward_model.name].obstacle == ""
    assert "Train that again first" in plans["later"].obstacle
    assert "Train that again first" in plans["online"].obstacle
    assert "not trained here" in plans["merged"].obstacle
    client.force_login(people["trainer"])
    page = client.get(reverse("withdrawal", args=[project.slug, row.pk])).text
    assert f'<a href="/runs/{push.pk}/">acme/lamps@main</a>' in page
    assert "Train again" in page and "cannot remove data from the weights" in page
    monkeypatch.setattr(services, "checked", lambda kind, config, inputs, *preset: config)
    address = reverse("train-again", args=[project.slug, row.pk])
    assert client.post(address, {"run": later.run_id}).status_code == 404
    reply = client.post(address, {"run": adapter.run_id})
    run = Run.objects.latest("pk")
    assert reply.url == reverse("run", args=[run.pk])
    assert (run.kind, run.inputs) == (adapter.run.kind, adapter.run.inputs)
    assert client.post(address, {"run": adapter.run_id}).url == reply.url  # a second click
    assert Run.objects.latest("pk") == run


def test_only_administrators_withdraw_and_leads_look(client, people, project, reviewer, snapshot):
    row = Withdrawal.objects.create(project=project, kind="reviewer")
    assert statuses(client, people, reverse("withdrawals", args=[project.slug])) == LOOKING
    assert statuses(client, people, reverse("withdrawal", args=[project.slug, row.pk])) == LOOKING
    address = reverse("withdraw-reviewer", args=[project.slug, reviewer.pk])
    for person in people.values():
        client.force_login(person)
        assert client.post(address, {"typed": "withdraw"}).status_code == 403
    assert Ranking.objects.filter(reviewer=reviewer).count() == 3


def test_an_administrator_withdraws_on_the_page(client, project, reviewer, lineage, admin):
    client.force_login(admin)
    address = reverse("withdraw-reviewer", args=[project.slug, reviewer.pk])
    page = client.get(address).text
    assert "later" in page and "3 rankings" in page
    assert client.post(address, {"typed": "yes"}).status_code == 422
    reply = client.post(address, {"typed": "withdraw", "reason": "Consent withdrawn."})
    assert reply.url == reverse("withdrawals", args=[project.slug])
    row = Withdrawal.objects.get()
    assert row.reason == "Consent withdrawn." and len(row.reach["models"]) == 4
    page = client.get(reverse("model", args=[lineage[1].pk])).text
    assert f"withdrawals/{row.pk}/" in page and "withdrawn later" in page
    reward_page = client.get(reverse("reward-model", args=[lineage[3].pk])).text
    assert f"withdrawals/{row.pk}/" in reward_page


def test_the_command_shows_then_withdraws(project, reviewer, lineage, admin, capsys):
    arguments = [project.slug, "--reviewer", reviewer.username, "--by", admin.username]
    call_command("withdraw", *arguments, "--dry-run")
    output = capsys.readouterr().out
    assert "3 rankings" in output and "later" in output and "Nothing was withdrawn." in output
    assert not Withdrawal.objects.exists()
    call_command("withdraw", *arguments, "--confirm", "--reason", "Asked to.")
    assert "marks 4 models and 1 reward models" in capsys.readouterr().out
    assert Withdrawal.objects.get().reason == "Asked to."
    prompt = Ranking.objects.filter(removed_at=None).first().task.prompt
    call_command(
        "withdraw", project.slug, "--prompt", str(prompt.pk), "--by", admin.username, "--confirm"
    )
    prompt.refresh_from_db()
    assert prompt.erased_at is not None
    with pytest.raises(CommandError, match="has no prompt 999999"):
        call_command("withdraw", project.slug, "--prompt", "999999", "--by", admin.username)


def test_a_project_is_deleted_with_its_withdrawals(project, reviewer, snapshot, admin):
    erasing.withdraw_reviewer(project=project, reviewer=reviewer, by=admin)
    type(project).objects.filter(pk=project.pk).update(archived_at=timezone.now())
    project.refresh_from_db()
    deletion.delete(project=project, by=None)
    assert not Withdrawal.objects.exists() and not BurnedPseudonym.objects.exists()
