"""Tests that `score` and `rewardbench` read the files that imports read."""

import io
import json
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.core.management import CommandError, call_command

from reward.scoring.rewardbench_rows import check_rows, read_row
from reward.scoring.rows import RowsError, parse_file_row, survey
from reward.training.score import Scorer, judge
from reward.training.score_rows import score_rows
from tests.finetune.factory import make_reward_model, make_snapshot
from tests.labeling.importing.import_files import assistant, saved, user
from tests.reward.factory import make_project
from tests.reward.scored import make_scorer_folder

KINDS = ["a.json", "a.csv", "a.parquet", "a.xlsx", "a.jsonl.gz", "a.csv.gz"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_scorer_folder(tmp_path_factory.mktemp("scored") / "model")


@pytest.fixture
def never_loaded(tmp_path):
    """Return a folder from which no model can be loaded."""
    (tmp_path / "no-model").mkdir()
    return str(tmp_path / "no-model")


def dry(*arguments, **options):
    out = io.StringIO()
    call_command("score", *map(str, arguments), "--dry-run", stdout=out, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("row", "prompt", "responses", "unread"),
    [
        ({"prompt": 42, "response": True}, "42", ["true"], set()),
        ({"prompt": "a", "responses": ["b", None, 0]}, "a", ["b", "", "0"], {1}),
        ({"prompt": "a", "response": None}, "a", [""], {0}),
        ({"prompt": "a\ud83d", "response": "\x00"}, "a\ufffd", ["\ufffd"], set()),
        ({"prompt": "[]", "response": '{"a": 1}'}, "[]", ['{"a": 1}'], set()),
        (
            {"prompt": [user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])],
             "response": "c"}, "a\n\nb", ["c"], set(),
        ),
        (
            {"messages": [user([{"type": "text", "text": "a"}, {"type": "image"}]), assistant("c")]},
            "a", ["c"], {0},
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"}]},
            "a", ["c"], set(),
        ),
        ({"prompt": "a", "response": {"role": "assistant", "content": "c"}}, "a", ["c"], set()),
    ],
)  # fmt: skip
def test_a_row_of_a_file_is_read_as_imports_read_it(row, prompt, responses, unread):
    parsed_row = parse_file_row(row)
    assert parsed_row.prompt[-1] == user(prompt)
    assert parsed_row.responses == responses and parsed_row.unread == unread


def test_a_response_that_is_null_or_answers_an_image_gets_no_score(folder):
    scorer = Scorer(folder)
    rows = [{"prompt": "a", "responses": ["b", None]},
            {"messages": [user([{"type": "image"}]), assistant("c")]}]  # fmt: skip
    many, image = judge(scorer, list(map(parse_file_row, rows)))
    assert np.isfinite(many.scores[0]) and np.isnan(many.scores[1]) and np.isnan(image.scores[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.django_db
def test_score_reads_every_type_of_file(tmp_path, never_loaded, kind):
    rows = [
        {"prompt": "Which?", "responses": ["x", "y"], "n": 1},
        {"prompt": "How?", "responses": ["z"], "n": 2},
    ]
    assert "3 responses of 2 rows" in dry(saved(tmp_path, rows, kind), "--model", never_loaded)
    chats = [{"messages": [user("a"), assistant("b")]}]
    assert "1 responses of 1 rows" in dry(saved(tmp_path, chats, kind), "--model", never_loaded)


@pytest.mark.django_db
def test_score_reads_other_encodings_and_byte_order_marks(tmp_path, never_loaded):
    text = "prompt;response\nGr\u00f6\u00dfe?;gro\u00df\n"
    (path := tmp_path / "a.csv").write_bytes(text.encode("windows-1252"))
    with pytest.raises(CommandError, match="UTF-8"):
        dry(path, "--model", never_loaded)
    dry(path, "--model", never_loaded, "--encoding", "windows-1252")
    path.write_bytes(text.encode("utf-8-sig"))
    dry(path, "--model", never_loaded)


@pytest.mark.parametrize(
    ("kind", "word"), [("a.json", "row 6"), ("a.csv", "row 3"), ("a.xlsx", "row 3")]
)
@pytest.mark.django_db
def test_a_wrong_row_is_named_before_a_model_is_loaded(tmp_path, never_loaded, kind, word):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "", "response": "b"}]
    path = saved(tmp_path, rows, kind)
    with pytest.raises(CommandError, match=f"{kind}, {word}: it has neither messages nor prompt"):
        call_command("score", str(path), "--model", never_loaded)
    pair = [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": ""},
    ]
    model = make_reward_model(make_snapshot(make_project(), prompts=1), path=never_loaded)
    with pytest.raises(CommandError, match="it has no rejected"):
        call_command("rewardbench", str(model.pk), str(saved(tmp_path, pair, kind)))


@pytest.mark.django_db
def test_rows_that_do_not_fit_parquet_are_refused_before_a_model_is_loaded(tmp_path, never_loaded):
    rows = [{"prompt": "a", "response": "b", "n": 1}, {"prompt": "a", "response": "b", "n": "x"}]
    path, out = saved(tmp_path, rows), tmp_path / "out.parquet"
    with pytest.raises(CommandError, match=r"row 2: 'n' is 'x'"):
        call_command("score", str(path), "--model", never_loaded, "--out", str(out))
    with pytest.raises(CommandError, match="There is no folder"):
        call_command(
            "score", str(path), "--model", never_loaded, "--out", str(tmp_path / "no" / "a.jsonl")
        )
    assert not out.exists()


def test_odd_values_come_out_of_score_as_json(folder, tmp_path):
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    row = {
        "prompt": "a\u2028b",
        "response": "c",
        "note": "\ud83d",
        "big": 2**70,
        "sep": "\u0085\u2029",
    }
    path.write_text(
        json.dumps(row)[:-1] + ', "level": NaN}\n' + json.dumps(row, ensure_ascii=True) + "\n"
    )
    assert score_rows(Scorer(folder), path, out)["scored"] == 2
    payload = [json.loads(line) for line in out.read_text().split("\n")[:-1]]
    assert {name: payload[0][name] for name in row} == row and payload[0]["level"] is None
    lake = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"prompt": "a", "response": "c", "level": float("nan")}]), lake
    )
    score_rows(Scorer(folder), lake, out)
    assert json.loads(out.read_text(), parse_constant=pytest.fail)["level"] is None


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    (path := tmp_path / "a.jsonl").write_bytes(
        b'{"prompt": "a", "response": "b"}\n{"prompt": "\xff"}\n'
    )
    with pytest.raises(RowsError, match="row 2: it is not UTF-8 text"):
        survey(path)


# --- RewardBench ---------------------------------------------------------------------------------


def test_a_row_of_rewardbench_may_hold_numbers_nulls_parts_and_either_normal_form():
    row = {"prompt": 1, "chosen": [2, None], "rejected": [True], "subset": "Gro\u0308\u00dfe"}
    result = read_row(row)
    assert (result.responses, result.chosen) == (["2", "true"], 1)
    assert result.subset == unicodedata.normalize("NFC", row["subset"]) and result.whole
    parts = [user([{"type": "text", "text": "a"}, {"type": "image"}]), assistant("b")]
    result = read_row({"chosen": parts, "rejected": [*parts[:1], assistant("c")]})
    assert result.prompt == [user("a")] and not result.whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.django_db
def test_rewardbench_reads_every_type_of_file(tmp_path, kind):
    from reward.scoring.input_files import readable

    best_of = [{"prompt": "a", "chosen": ["b"], "rejected": ["c", "d"]}] * 2
    with readable(saved(tmp_path, best_of, kind), "utf-8", read_row) as path:
        assert check_rows(path) == 2
    texts = [{"prompt": "a", "chosen": '["b"]', "rejected": "c"}]
    with readable(saved(tmp_path, texts, kind), "utf-8", read_row) as path:
        check_rows(path)


def test_every_file_type_of_score_is_documented():
    from config.env import BASE_DIR

    text = (BASE_DIR / "docs" / "commands.md").read_text()
    for command in ("score", "rewardbench"):
        section = text.split(f"## `manage.py {command}`")[1].split("\n## ")[0]
        assert "`--encoding`" in section and "Excel" in section
