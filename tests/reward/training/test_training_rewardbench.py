"""Tests of files in RewardBench's format."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from django.core.management import CommandError, call_command

from recipes.stopping import StopSignal
from reward.scoring.rewardbench_rows import read_row, read_rows
from reward.scoring.rows import RowsError
from reward.training import rewardbench
from reward.training.rewardbench import credit, evaluate
from reward.training.train import train
from tests.finetune.factory import make_reward_model, make_snapshot
from tests.reward.factory import make_project
from tests.reward.world import make_groups, make_run, tiny_llama

torch.set_num_threads(1)

TURNS = [{"role": "user", "content": "Which?"}]


class CountsX:
    """A scorer that counts x and cannot read more than 20 characters."""

    def score(self, conversations):
        return [
            np.array([np.nan if len(text) > 20 else text.count("x") for text in texts], np.float32)
            for _, texts in conversations
        ]


def written(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("xx", "x"),
        (["xx"], ["x"]),
        (
            [*TURNS, {"role": "assistant", "content": "xx"}],
            [*TURNS, {"role": "assistant", "content": "x"}],
        ),
        ([{"role": "assistant", "content": "xx"}], [{"role": "assistant", "content": "x"}]),
    ],
)
def test_a_pair_may_be_texts_lists_or_conversations(chosen, rejected):
    result = read_row({"prompt": "Which?", "chosen": chosen, "rejected": rejected})
    assert (result.prompt, result.responses, result.chosen) == (TURNS, ["xx", "x"], 1)


def test_a_prompt_may_be_messages_and_a_row_may_have_several_of_each():
    row = {"prompt": TURNS, "chosen": ["a", "b"], "rejected": ["c"], "subset": "Ties", "id": 3}
    result = read_row(row)
    assert (result.subset, result.responses, result.chosen) == ("Ties", ["a", "b", "c"], 2)
    assert result.chance == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "a", "chosen": "b"}, "it has no rejected"),
        ({"chosen": "a", "rejected": "b"}, "prompt is neither text nor messages"),
        ({"prompt": "a", "chosen": TURNS, "rejected": "b"}, "does not end with an answer"),
        ({"prompt": "a", "chosen": [{}], "rejected": "b"}, "chosen is neither text nor messages"),
        ("text", "it has no chosen"),
    ],
)
def test_a_row_that_is_not_in_the_format_is_named(tmp_path, row, sentence):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(RowsError, match=f"row 2: .*{sentence}"):
        list(read_rows(written(tmp_path / "rows.jsonl", [good, row])))


def test_a_wrong_row_at_the_end_is_named_before_any_is_scored(tmp_path):
    class Untouched:
        def score(self, rows):
            raise AssertionError("it began to score")

    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = written(tmp_path / "rows.jsonl", [good] * 300 + [{"prompt": "a", "chosen": "b"}])
    with pytest.raises(RowsError, match="row 301: "):
        evaluate(Untouched(), path)


def test_files_that_cannot_be_read_are_refused_with_a_sentence(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{')
    with pytest.raises(RowsError, match="row 2: not valid JSON"):
        list(read_rows(tmp_path / "bad.jsonl"))
    (tmp_path / "bad.parquet").write_text("not parquet")
    for name in ("bad.parquet", "nowhere.jsonl"):
        with pytest.raises(RowsError, match="cannot be read"):
            list(read_rows(tmp_path / name))
    with pytest.raises(RowsError, match="has no rows"):
        evaluate(CountsX(), written(tmp_path / "empty.jsonl", []))


def test_the_chosen_must_score_highest_and_shares_the_credit_of_a_tie():
    assert credit(np.array([2.0, 1.0, 0.0, 1.0]), 1) == 1.0
    assert credit(np.array([2.0, 3.0, 0.0, 1.0]), 1) == 0.0
    assert credit(np.array([2.0, 2.0, 0.0, 2.0]), 1) == pytest.approx(1 / 3)
    assert credit(np.array([2.0, 5.0, 1.0]), 2) == 1.0
    assert credit(np.array([2.0, 5.0, 2.0]), 2) == 0.0


def test_subsets_are_counted_apart_and_unreadable_rows_are_left_out(tmp_path):
    row = lambda subset, chosen, *rejected: {  # noqa: E731
        "prompt": "?", "chosen": [chosen], "rejected": list(rejected), "subset": subset
    }  # fmt: skip
    rows = [
        row("easy", "xx", "x"),
        row("easy", "xxx", "x"),
        row("hard", "x", "xx", "a", "b"),
        row("hard", "xx", "x", "a", "b"),
        row("hard", "x" * 30, "x", "a", "b"),
        row("long", "x" * 30, "x"),
    ]
    result = evaluate(CountsX(), written(tmp_path / "rows.jsonl", rows))
    easy, hard, long = result["subsets"]
    assert (easy["value"], easy["rows"], easy["chance"]) == (1.0, 2, 0.5)
    assert (hard["value"], hard["rows"], hard["chance"], hard["left_out"]) == (0.5, 2, 0.25, 1)
    assert long["value"] is None and "too long for the model" in long["reason"]
    assert result["accuracy"]["value"] == 0.75 and result["mean_of_subsets"] == 0.75
    assert result["left_out"] == 2 and result["accuracy"]["interval"][0] < 0.75
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert evaluate(CountsX(), tmp_path / "rows.parquet") == result


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Return a function that runs the recipe with --out and returns its status and loaded scorers."""
    row = {"prompt": "a", "chosen": "xx", "rejected": "x"}
    rows = written(tmp_path / "rows.jsonl", [row])
    loaded = []
    monkeypatch.setattr(rewardbench, "Scorer", lambda folder: loaded.append(folder) or CountsX())

    def run(out):
        line = ["rewardbench", str(tmp_path), str(rows), "--out", str(out)]
        monkeypatch.setattr("sys.argv", line)
        return rewardbench.main(), len(loaded)

    return run


def test_figures_are_written_into_a_new_folder(scored, tmp_path, capsys):
    out = tmp_path / "new" / "folder" / "figures.json"
    assert scored(out) == (0, 1)
    output = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads(out.read_text()) == output and output["accuracy"]["value"] == 1.0


def test_an_unwritable_file_is_refused_before_scoring(scored, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "figures.json", tmp_path):
        assert scored(out) == (1, 0)
        printed = capsys.readouterr()
        assert f"{out} cannot be written: " in printed.err and not printed.out


def test_figures_that_cannot_be_written_are_printed(scored, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rewardbench, "check_writable", lambda path: None)
    assert scored(tmp_path / "nowhere" / "figures.json") == (1, 1)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["accuracy"]["rows"] == 1
    assert "cannot be written: No such file" in printed.err


@pytest.mark.django_db
def test_the_command_evaluates_a_trained_model(tmp_path, capsys):
    run_dir = make_run(tmp_path / "run", tiny_llama(tmp_path), make_groups(32, 4), epochs=3)
    train(run_dir, StopSignal())
    model = make_reward_model(make_snapshot(make_project(), prompts=2), path=str(run_dir.output))
    rows = [
        {"prompt": f"Write {n} letters.", "chosen": "xxxxxx", "rejected": ["ab", "z"]}
        for n in range(12)
    ]
    path = written(tmp_path / "rows.jsonl", rows)
    call_command("rewardbench", str(model.pk), str(path), "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures["accuracy"]["value"] > 0.8 and figures["accuracy"]["rows"] == 12
    call_command("rewardbench", str(model.pk), str(path))
    assert "All rows: " in capsys.readouterr().out
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("rewardbench", str(model.pk), str(tmp_path / "nowhere.jsonl"))
