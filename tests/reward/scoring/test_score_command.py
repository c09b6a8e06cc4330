"""Tests of `manage.py score` and its recipe."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.core.management import CommandError, call_command

from reward.models import RewardModel
from reward.scoring.rows import RowsError, parse_row, survey
from reward.training.score import Scorer, judge, score_file
from reward.training.score_rows import figures, score_rows
from tests.finetune.factory import make_reward_model, make_snapshot
from tests.reward.factory import make_project
from tests.reward.scored import make_scorer_folder

PROMPT = [{"role": "user", "content": "Which lamp?"}]


def answered(text, prompt=PROMPT):
    return [*prompt, {"role": "assistant", "content": text}]


ROWS = [
    {"messages": answered("The tall one."), "id": "a"},
    {"prompt": "Which lamp?", "response": "The red one.", "note": "kept"},
    {"prompt": PROMPT, "responses": ["The tall one.", "The red one.", "x" * 600]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_scorer_folder(tmp_path_factory.mktemp("scored") / "model")


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer(folder)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_may_have_each_of_the_three_shapes():
    first, second, three = map(parse_row, ROWS)
    assert (first.prompt, first.responses, first.many) == (PROMPT, ["The tall one."], False)
    assert (second.prompt, second.responses, second.many) == (PROMPT, ["The red one."], False)
    assert three.many and len(three.responses) == 3


@pytest.mark.parametrize(
    ("row", "clause"),
    [
        ([1], "not a JSON object"),
        ({}, "neither messages nor prompt"),
        ({"prompt": "a"}, "neither response nor responses"),
        ({"prompt": "a", "responses": []}, "responses is not a list of texts"),
        ({"prompt": "a", "responses": ["b", None]}, "a response is not text"),
        ({"prompt": [{"role": "user"}], "response": "b"}, "without role and content"),
        ({"messages": PROMPT}, "do not end with an answer"),
        ({"messages": answered("b", [])}, "an answer but no prompt"),
        ({"prompt": "a", "response": "\ud800"}, "a lone surrogate"),
    ],
)
def test_an_invalid_row_is_refused_with_a_reason(row, clause):
    with pytest.raises(ValueError, match=clause):
        parse_row(row)


def test_up_to_ten_wrong_rows_are_listed_with_their_numbers(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n\n{"prompt": "a"}\n{nonsense\n')
    with pytest.raises(RowsError, match=r"(?s)row 3: .*row 4: not valid JSON"):
        survey(path)
    with pytest.raises(RowsError) as refused:
        survey(written(path, [{}] * 30))
    assert str(refused.value).count("\n") == 9


def test_rows_are_read_with_a_byte_order_mark_and_with_numbers_that_are_not_json(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = '{"prompt": "a", "response": "b", "level": NaN, "note": "\\u2028\u2028"}\n'
    path.write_text("\ufeff" + row, encoding="utf-8")
    assert survey(path)["rows"] == 1
    path.write_text('{"prompt": "a", "response": "b", "n": ' + "1" * 5000 + "}\n")
    with pytest.raises(RowsError, match="row 1: a number has too many digits"):
        survey(path)


@pytest.mark.django_db
def test_all_three_shapes_get_the_same_scores(folder, tmp_path):
    snapshot = make_snapshot(make_project(), prompts=1)
    make_reward_model(snapshot, path="/nowhere")
    make_reward_model(snapshot, path=str(folder), state=RewardModel.State.PROMOTED, name="lamps")
    source, out, errors = written(tmp_path / "rows.jsonl", ROWS), io.StringIO(), io.StringIO()
    call_command("score", str(source), stdout=out, stderr=errors)
    first, second, many = map(json.loads, out.getvalue().splitlines())
    assert (first["id"], second["note"]) == ("a", "kept")
    assert many["scores"][:2] == pytest.approx([first["score"], second["score"]], abs=1e-5)
    assert many["uncertainties"][0] == pytest.approx(first["uncertainty"], abs=1e-5)
    assert many["scores"][2] is None and first["uncertainty"] > 0
    assert (
        "lamps scored 4 responses of 3 rows. 1 are too long for the model or incomplete"
        in errors.getvalue()
    )


def test_parquet_keeps_its_columns_and_equals_the_scores_of_the_older_recipe(scorer, tmp_path):
    rows = [{"prompt": PROMPT, "responses": ["a", "bc"], "n": n} for n in range(3)]
    source, out, older = (tmp_path / f"{name}.parquet" for name in ("in", "out", "older"))
    pq.write_table(pa.Table.from_pylist(rows), source)
    assert score_rows(scorer, source, out) == {"rows": 3, "responses": 6, "scored": 6}
    content = pq.read_table(out)
    assert content.schema.names == ["prompt", "responses", "n", "scores", "uncertainties"]
    score_file(scorer, source, older)
    for mine, theirs in zip(content.to_pylist(), pq.read_table(older).to_pylist(), strict=True):
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-5)
        assert mine["uncertainties"] == pytest.approx(theirs["disagreements"], abs=1e-5)


def test_rows_score_the_same_together_and_alone(scorer):
    rows = [parse_row({"prompt": f"{n % 3} lamps?", "response": "x" * n}) for n in range(1, 9)]
    together = judge(scorer, rows)
    for row, verdict in zip(rows, together, strict=True):
        assert verdict.heads == pytest.approx(judge(scorer, [row])[0].heads, abs=1e-5)


def test_a_model_of_one_head_has_no_uncertainty(scorer):
    verdict = judge(scorer, [parse_row(ROWS[2])])[0]
    assert figures(verdict, 1, many=True)["uncertainties"] == [None, None, None]


def test_rows_that_fit_no_columns_are_refused_before_a_model_is_needed(scorer, tmp_path):
    rows = [{"prompt": "a", "response": "b", "n": n} for n in range(300)]
    source = written(tmp_path / "rows.jsonl", [*rows, {**rows[0], "n": "text"}])
    with pytest.raises(RowsError, match="row 301: 'n' is 'text'"):
        score_rows(None, source, tmp_path / "out.parquet")
    written(source, [{**rows[0], "n": 2**70}])
    with pytest.raises(RowsError, match="row 1: 'n' is '1180591620717411303424'"):
        score_rows(None, source, tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    written(source, [*rows, {**rows[0], "m": 1, "n": 0.5, "note": "\ud83d"}])
    score_rows(scorer, source, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names[-4:] == ["m", "note", "score", "uncertainty"]
    assert table.to_pylist()[-1]["note"] == "\ufffd" and table.to_pylist()[-1]["n"] == 0.5


@pytest.mark.django_db
def test_a_dry_run_checks_every_row_and_writes_nothing(folder, tmp_path, capsys):
    source, out = written(tmp_path / "rows.jsonl", ROWS), tmp_path / "out.jsonl"
    arguments = ["score", str(source), "--model", str(folder), "--out", str(out)]
    call_command(*arguments, "--dry-run")
    assert "would score 5 responses of 3 rows" in capsys.readouterr().out
    written(source, [*ROWS, {"prompt": "a"}])
    for more in ([], ["--dry-run"]):
        with pytest.raises(CommandError, match="row 4: it has a prompt but neither"):
            call_command(*arguments, *more)
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.django_db
def test_an_existing_file_is_replaced_only_on_request(folder, tmp_path):
    source, out = written(tmp_path / "rows.jsonl", ROWS[:1]), tmp_path / "out.jsonl"
    out.write_text("mine")
    arguments = ["score", str(source), "--model", str(folder), "--out", str(out)]
    with pytest.raises(CommandError, match="exists"):
        call_command(*arguments)
    call_command(*arguments, "--force", "--dry-run", stdout=io.StringIO())
    assert out.read_text() == "mine"


@pytest.mark.django_db
def test_a_missing_or_ambiguous_model_is_named(folder, tmp_path):
    source = str(written(tmp_path / "rows.jsonl", ROWS))
    for arguments, sentence in [
        ([], "No reward model is promoted"),
        (["--project", "lamps"], "'lamps' has no promoted"),
        (["--model", "99999"], "no reward model 99999"),
        (["--model", "nowhere"], "neither the number of a reward model nor a folder"),
        (["--model", "1", "--project", "lamps"], "not both"),
    ]:
        with pytest.raises(CommandError, match=sentence):
            call_command("score", source, *arguments)
    for _ in range(2):
        snapshot = make_snapshot(make_project(), prompts=1)
        make_reward_model(snapshot, path=str(folder), state=RewardModel.State.PROMOTED)
    with pytest.raises(CommandError, match="Several projects have a promoted"):
        call_command("score", source)
    call_command("score", source, "--project", snapshot.project.slug, "--dry-run")
