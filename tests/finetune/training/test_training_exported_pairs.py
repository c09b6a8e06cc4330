"""Test that an export of held-out pairs contains the pairs that a run is measured on."""

import json

import pytest

from finetune.methods.dpo import DPO, DPOSettings
from finetune.training.fitting.held_out import HeldOut
from finetune.training.models.language_model import PolicyChat, load_tokenizer
from finetune.training.train import read_data
from recipes.preferences.groups import read_groups
from recipes.stopping import StopSignal
from reward.preferences.filters import SnapshotFilter
from reward.preferences.snapshots import freeze
from tests.finetune.training.training_runs import dpo_run
from tests.reward.factory import make_project, make_prompt, make_task, make_user, rank
from tests.reward.test_commands import exported

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("one_thread")]


def ranked_prompts(project):
    """Create fifteen pairs per prompt: one tied, one of identical texts, some contested."""
    for number in range(12):
        texts = ("a", "b", "c", "d", "e", " a ")
        task = make_task(make_prompt(project, f"Question {number}?"), texts)
        rank(task, make_user(), ((0,), (1,), (2, 3), (4,), (5,)))
        rank(task, make_user(), ((1,), (0,), (2, 3), (4,), (5,)))
        rank(task, make_user(), ((1,), (2, 3), (0,), (4,), (5,)))


def test_exported_test_pairs_are_those_of_the_held_out_figures(tmp_path, model):
    project = make_project()
    ranked_prompts(project)
    snapshot = freeze(project=project, filter=SnapshotFilter(test_fraction=0.3), by=None)
    run_dir = dpo_run(tmp_path / "run", model, list(read_groups(snapshot.file)))
    method = DPO(DPOSettings(model=str(model)))
    prepared = read_data(run_dir, method, PolicyChat(load_tokenizer(str(model))), limit=1024)
    held_out = HeldOut(None, method, prepared, [], None, StopSignal())
    file = tmp_path / "test.jsonl"
    arguments = ["--snapshot", str(snapshot.pk), str(file), "--format", "pairs"]
    exported(*arguments, "--split", "test")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    groups = prepared.groups["test"]
    measured = [
        (
            groups[index].prompt[-1]["content"],
            groups[index].responses[pair.chosen],
            groups[index].responses[pair.rejected],
        )
        for index, pair in held_out.pairs
    ]
    assert measured and measured == [
        tuple(row[side][-1]["content"] for side in ("prompt", "chosen", "rejected")) for row in rows
    ]
