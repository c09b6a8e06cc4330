"""Tests that erased content is in no table, snapshot, run folder, report or audit trail."""

import json

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import AuditEntry, Role, Token, User
from finetune.models import Evaluation, EvaluationItem
from finetune.removal import erasing
from finetune.removal.erasing import CannotErase
from labeling.models import Adjudication, Membership, Prompt, Ranking, Skip
from labeling.removal import editing, withdrawing
from labeling.removal.editing import CannotEdit
from recipes.preferences.groups import content_hash, read_groups
from reward.models import RewardModel
from reward.preferences.snapshots import SnapshotFilter, freeze
from runs.models import Artifact, RunEvent, State
from runs.supervision import workspace
from tests.finetune.factory import laid_out, make_adapter, make_base, make_reward_model, make_run
from tests.reward.factory import join, make_prompt, make_task, make_user, rank

pytestmark = pytest.mark.django_db
SAMPLE_ANSWER = "An answer of the model in training."
SECRET = "Jane Roe lives at 5 Elm Street."
ANSWER = "The person at Elm Street is Jane, born in 1980."


@pytest.fixture
def task(project):
    new_task = make_task(make_prompt(project, SECRET), (ANSWER, "I cannot say.", "Ask her."))
    ranking = rank(new_task, make_user(), rationale=f"It repeats {SECRET}")
    Skip.objects.create(task=new_task, reviewer=make_user(), reason="other", note=SECRET)
    Adjudication.objects.create(
        task=new_task, tiers=ranking.tiers, cause="close", note=SECRET, by=ranking.reviewer
    )
    return new_task


@pytest.fixture
def others(project):
    tasks = [make_task(make_prompt(project, f"Harmless {n}?")) for n in range(2)]
    for item in tasks:
        rank(item, make_user())
    return tasks


@pytest.fixture
def everywhere(project, task, others):
    """Create a snapshot, a reward model with a run folder, and an evaluation that contain the text."""
    snapshot = freeze(project=project, filter=SnapshotFilter(), by=None)
    model = make_reward_model(snapshot)
    report = {
        "mistakes": [
            {"group_id": str(task.prompt_id), "prompt": [{"role": "user", "text": SECRET}]},
            {"group_id": str(others[0].prompt_id), "prompt": []},
        ],
        "first_batch": [f"<user>{SECRET}</user>", "Harmless 0?"],
    }
    model.run.project = project
    model.run.result = {"sample": SECRET}
    model.run.save()
    RewardModel.objects.filter(pk=model.pk).update(report=report)
    folder = laid_out(model.run)
    (folder.data / "preferences.parquet").write_bytes(snapshot.file.read_bytes())
    folder.output.mkdir(exist_ok=True)
    (folder.output / "report.json").write_text(json.dumps(report))
    (folder.output / "README.md").write_text(f"It was asked: {SECRET}\n")
    (folder.path / "log.txt").write_text(f"first row: {ANSWER}\n")
    Artifact.objects.bulk_create(workspace.artifacts(model.run, folder))
    RunEvent.objects.create(
        run=model.run, number=1, at=snapshot.created_at, event="message", data={"text": SECRET}
    )
    answers = [
        {"prompt_id": str(task.prompt_id), "prompt": "cut", "answer": SAMPLE_ANSWER},
        {"prompt_id": str(others[0].prompt_id), "prompt": "Harmless 0?", "answer": "b"},
    ]
    RunEvent.objects.create(
        run=model.run, number=2, at=snapshot.created_at, event="samples",
        data={"step": 1, "answers": answers},
    )  # fmt: skip
    adapter = make_adapter(make_base(project), snapshot)
    evaluation = Evaluation.objects.create(
        project=project,
        run=make_run("evaluate", project=project),
        candidate=adapter,
        baseline=adapter.parent,
        judge="length",
    )
    EvaluationItem.objects.create(
        evaluation=evaluation,
        prompt=task.prompt,
        baseline_text=ANSWER,
        candidate_text=SECRET,
        verdict=1.0,
    )
    return snapshot


def everything(settings) -> str:
    """Return all rows of all tables and the bytes of all files."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        rows = []
        for table in tables:
            cursor.execute(f'SELECT row_to_json(t)::text FROM "{table}" t')
            rows += [row[0] for row in cursor.fetchall()]
    groups = [
        str(group)
        for folder in (settings.SNAPSHOTS_DIR, settings.RUNS_DIR)
        for path in folder.rglob("*.parquet")
        for group in read_groups(path)
    ]
    texts = [
        path.read_text()
        for path in settings.RUNS_DIR.rglob("*")
        if path.is_file() and path.suffix in {".json", ".jsonl", ".txt", ".md"}
    ]
    return "\n".join([*rows, *groups, *texts])


@pytest.fixture
def commits(django_capture_on_commit_callbacks):
    return django_capture_on_commit_callbacks


def test_an_erased_prompt_is_in_no_table_or_file(
    project, task, others, everywhere, admin, settings, commits
):
    before = everything(settings)
    assert before.count(SECRET) > 8 and before.count(ANSWER) > 3
    with commits(execute=True):
        erasing.erase(content=task.prompt, by=admin)
    after = everything(settings)
    assert SECRET not in after and ANSWER not in after and "Harmless 0?" in after
    assert SAMPLE_ANSWER in before and SAMPLE_ANSWER not in after
    entry = AuditEntry.objects.get(action="prompt erased")
    assert entry.user == admin and entry.details["prompt"] == task.prompt_id
    assert entry.details["snapshots"] == [everywhere.pk]


def test_a_snapshot_keeps_its_other_rows_and_records_the_erasure(
    project, task, others, everywhere, admin, commits
):
    old, hash_before = everywhere.file, everywhere.content_hash
    with commits(execute=True):
        erasing.erase(content=task.prompt, by=admin)
    everywhere.refresh_from_db()
    groups = {group.group_id for group in read_groups(everywhere.file)}
    assert groups == {str(other.prompt_id) for other in others}
    assert everywhere.content_hash == content_hash(read_groups(everywhere.file)) != hash_before
    assert everywhere.erased_at and everywhere.counts["erased"] == [hash_before]
    assert not old.exists()


def test_a_snapshot_may_equal_one_that_was_frozen_after_the_prompt_was_withdrawn(
    project, task, others, everywhere, admin, commits
):
    withdrawing.withdraw(content=task.prompt, by=admin)
    newer = freeze(project=project, filter=SnapshotFilter(), by=None)
    with commits(execute=True):
        erasing.erase(content=task.prompt, by=admin)
    everywhere.refresh_from_db()
    assert everywhere.content_hash == newer.content_hash and newer.file.is_file()
    assert freeze(project=project, filter=SnapshotFilter(), by=None) == newer


def test_one_response_is_erased_and_the_rest_of_its_row_stays(
    project, task, others, everywhere, admin, settings, commits
):
    response = task.responses.get(text=ANSWER)
    with commits(execute=True):
        erasing.erase(content=response, by=admin)
    assert ANSWER not in everything(settings)
    everywhere.refresh_from_db()
    [group] = [g for g in read_groups(everywhere.file) if g.group_id == str(task.prompt_id)]
    assert group.responses == ["I cannot say.", "Ask her."]
    task.prompt.refresh_from_db()
    assert task.prompt.messages[0]["content"] == SECRET and task.prompt.withdrawn_at is None


def test_files_that_changed_keep_matching_their_recorded_digests(
    project, task, others, everywhere, admin, commits
):
    with commits(execute=True):
        erasing.erase(content=task.prompt, by=admin)
    run = everywhere.reward_models.get().run
    recorded = {a.name: a.sha256 for a in Artifact.objects.filter(run=run)}
    now = {a.name: a.sha256 for a in workspace.artifacts(run, workspace.run_dir_of(run))}
    assert recorded == now


def test_a_tokenizer_keeps_words_that_an_erased_response_contains(project, admin):
    task = make_task(make_prompt(project, "Yes or no?"), ("the", "No.", "Maybe."))
    rank(task, make_user())
    snapshot = freeze(project=project, filter=SnapshotFilter(), by=None)
    adapter = make_adapter(make_base(project), snapshot)
    adapter.run.project = project
    adapter.run.save(update_fields=["project"])
    output = workspace.run_dir_of(adapter.run).output
    tokenizer = json.dumps({"model": {"merges": [["t", "he"], ["the", "re"]]}})
    (output / "tokenizer.json").write_text(tokenizer)
    (output / "merges.txt").write_text("t he\nthe re\n")
    (output / "report.json").write_text(json.dumps({"sample": "the"}))
    erasing.erase(content=task.responses.get(text="the"), by=admin)
    assert (output / "tokenizer.json").read_text() == tokenizer
    assert (output / "merges.txt").read_text() == "t he\nthe re\n"
    assert "the" not in (output / "report.json").read_text()


def test_erased_content_cannot_be_restored_or_edited(project, task, admin):
    erasing.erase(content=task.prompt, by=admin)
    prompt = Prompt.objects.get(pk=task.prompt_id)
    assert not withdrawing.restore(content=prompt, by=admin)
    with pytest.raises(CannotEdit, match="erased"):
        editing.edit(prompt=prompt, messages=[{"role": "user", "content": "x"}], by=admin)
    with pytest.raises(CannotErase, match="already"):
        erasing.erase(content=prompt, by=admin)


def test_nothing_is_erased_while_a_run_of_the_project_is_active(project, task, admin):
    make_run("reward", project=project, state=State.QUEUED, finished_at=None)
    with pytest.raises(CannotErase, match="not finished"):
        erasing.erase(content=task.prompt, by=admin)
    assert Prompt.objects.get(pk=task.prompt_id).messages[0]["content"] == SECRET
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("role", list(Role))
def test_only_administrators_erase(role, project, task):
    user = make_user(role)
    join(project, user, Membership.Role.LEAD)
    for act in (
        lambda: erasing.erase(content=task.prompt, by=user),
        lambda: erasing.erase_person(user=task.rankings.get().reviewer, by=user),
    ):
        with pytest.raises(CannotErase, match="administrator"):
            act()
    assert Prompt.objects.get(pk=task.prompt_id).messages[0]["content"] == SECRET


def test_rankings_stay_frozen_outside_of_erasing(project, task, admin):
    erasing.erase(content=task.prompt, by=admin)
    ranking = task.rankings.get()
    assert ranking.tiers and ranking.rationale == ""
    with pytest.raises(IntegrityError), transaction.atomic():
        Ranking.objects.filter(pk=ranking.pk).update(rationale="Changed")


# --- people --------------------------------------------------------------------------------------


def test_erasing_a_person_keeps_only_their_labels(project, task, admin, settings):
    user = User.objects.create_user(
        "jroe", email="jane@roe.example", first_name="Jane", last_name="Roe", password="x" * 12
    )
    join(project, user)
    Token.issue(user=user, name="mine")
    rank(task, user, rationale="I, Jane Roe, think so.")
    AuditEntry.objects.create(user=admin, action="user changed", subject="User jroe")
    name = erasing.erase_person(user=user, by=admin)
    user.refresh_from_db()
    assert user.username == name == f"erased-{user.pk}" and not user.is_active
    assert not user.has_usable_password() and not user.tokens.exists()
    assert Ranking.objects.get(reviewer=user).tiers
    after = everything(settings)
    assert "jroe" not in after and "jane@roe" not in after and "I, Jane Roe" not in after
    assert AuditEntry.objects.get(action="person erased").details == {"account": user.pk}


def test_administrators_cannot_erase_themselves(admin):
    with pytest.raises(CannotErase, match="signed in"):
        erasing.erase_person(user=admin, by=admin)
