"""Tests that a default export of pairs contains the pairs that DPO trains on."""

import json

import pytest

from finetune.settings import DPOSettings
from finetune.training.language_model import PolicyChat, load_tokenizer
from finetune.training.train import pair_options, read_data
from recipes.preferences.groups import read_groups
from recipes.preferences.pairs import PairOptions
from reward.preferences.filters import SnapshotFilter
from reward.preferences.snapshots import freeze
from tests.finetune.training_runs import dpo_run
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


def trained_pairs(prepared, pairs, split):
    """Return (question, chosen, rejected) of each pair."""
    groups = prepared.groups[split]
    return [
        (
            groups[index].prompt[-1]["content"],
            groups[index].responses[pair.chosen],
            groups[index].responses[pair.rejected],
        )
        for index, pair in pairs[split]
    ]


def test_exported_pairs_are_those_trained_on_with_default_settings(tmp_path, model):
    project = make_project()
    ranked_prompts(project)
    snapshot = freeze(project=project, filter=SnapshotFilter(test_fraction=0.3), by=None)
    run_dir = dpo_run(tmp_path / "run", model, list(read_groups(snapshot.file)))
    config = DPOSettings(model=str(model))
    chat = PolicyChat(load_tokenizer(str(model)))
    prepared, pairs = read_data(run_dir, config, chat, limit=config.max_length)
    for split in ("train", "test"):
        file = tmp_path / f"{split}.jsonl"
        arguments = ["--snapshot", str(snapshot.pk), str(file), "--format", "pairs"]
        counts = exported(*arguments, "--split", split)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        expected = trained_pairs(prepared, pairs, split)
        assert expected and expected == [
            tuple(row[side][-1]["content"] for side in ("prompt", "chosen", "rejected"))
            for row in rows
        ]
        left_out = {key: n for (s, _, key), n in prepared.left_out.items() if s == split}
        reasons = PairOptions().reasons()
        assert left_out == {
            reason: counts[f"pairs_{name}"]
            for name, reason in reasons.items()
            if f"pairs_{name}" in counts
        }
    assert "beyond 10 pairs of one prompt" in {why for _, _, why in prepared.left_out}


def test_the_default_options_are_those_of_the_settings():
    assert pair_options(DPOSettings(model="m")) == PairOptions()
