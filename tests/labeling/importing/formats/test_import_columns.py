"""Tests of tables in common formats."""

import json

import pytest

from labeling.importing.files.encodings import as_utf8
from labeling.importing.formats.columns import reader
from labeling.importing.formats.columns.grouping import ScatteredRows
from labeling.importing.formats.columns.mapping import Mapping
from labeling.importing.reading import (
    FORMATS,
    BadInput,
    UnclearColumns,
    detect,
    import_file,
    proposal_of,
)
from labeling.importing.records import Tally
from labeling.models import Prompt, Ranking
from tests.labeling.importing.import_files import assistant, saved, user, workbook
from tests.labeling.importing.test_import import run
from tests.labeling.world import make_project


def read(path, *pairs):
    """Return prompts as (chat, responses, tiers of texts, line, metadata), and the tally."""
    assert detect(path).name == "columns"
    proposal = proposal_of(path, Mapping.parse(pairs) if pairs else None)
    if proposal.questions:
        raise UnclearColumns(proposal)
    for scattered in (False, True):
        tally = Tally()
        source = reader.read(path, tally, proposal.mapping, proposal.reviewer, scattered=scattered)
        try:
            return [told(record) for record in source], tally
        except ScatteredRows:
            continue
    raise AssertionError


def told(record):
    texts = [response.text for response in record.responses]
    rankings = [ranking for task in record.tasks for ranking in task.rankings]
    tiers = [[[texts[n] for n in tier] for tier in item.tiers] for item in rankings]
    chat = [(message["role"], message["content"]) for message in record.messages]
    return chat, texts, tiers, [entry.cut for entry in rankings], record.meta


def row(*rows, **columns):
    return [*rows, columns] if columns else list(rows)


QUESTION = {"from": "human", "value": "Q?"}
ASKED = [("user", "Q?")]
FIRST_BETTER = [[["x"], ["y"]]]
SECOND_BETTER = [[["y"], ["x"]]]
SIDES = {"chosen": "x", "rejected": "y"}
RATED = {"correctness": 2, "coherence": 4, "complexity": 1, "verbosity": 0}

SHAPES = {
    "question next to a pair": (row(question="Q?", **SIDES), ASKED, FIRST_BETTER),
    "alpaca pair": (
        row(instruction="Q?", input="More.", system="Be kind.", history=[["a", "b"]], **SIDES),
        [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "Q?\n\nMore.")],
        FIRST_BETTER,
    ),
    "alpaca pair without input": (row(instruction="Q?", input="", **SIDES), ASKED, FIRST_BETTER),
    "sharegpt pair": (
        row(
            conversations=[QUESTION],
            chosen={"from": "gpt", "value": "x"},
            rejected={"from": "gpt", "value": "y"},
        ),
        ASKED,
        FIRST_BETTER,
    ),
    "chats of parts": (
        row(
            chosen_messages=[
                {"role": "user", "content": [{"type": "text", "value": "Q?"}]},
                {"role": "assistant", "content": [{"type": "text", "value": "x"}]},
            ],
            rejected_messages=[
                {"role": "user", "content": [{"type": "text", "value": "Q?"}]},
                {"role": "assistant", "content": [{"type": "text", "value": "y"}]},
            ],
        ),
        ASKED,
        FIRST_BETTER,
    ),
    "OpenAI's preference format": (
        row(
            input={"messages": [user("Q?")], "tools": []},
            preferred_output=[assistant("x")],
            non_preferred_output=[assistant("y")],
        ),
        ASKED,
        FIRST_BETTER,
    ),
    "alpaca KTO, scattered": (
        row(
            {"instruction": "Q?", "input": "", "output": "x", "kto_tag": True},
            {"instruction": "R?", "input": "", "output": "z", "kto_tag": True},
            {"instruction": "Q?", "input": "", "output": "y", "kto_tag": False},
        ),
        ASKED,
        FIRST_BETTER,
    ),
    "chats with a label": (
        row(
            {"messages": [user("Q?"), assistant("x")], "label": True},
            {"messages": [user("Q?"), assistant("y")], "label": False},
        ),
        ASKED,
        FIRST_BETTER,
    ),
    "ranked answers": (
        row(
            prompt="Q?",
            answers=[
                {"answer": "x", "model": "a", "rank": 1.0},
                {"answer": "y", "model": "b", "rank": 2.0},
            ],
        ),
        ASKED,
        FIRST_BETTER,
    ),
    "columns counted from 0": (
        row(prompt="Q?", response_0="x", response_1="y", better_response_id=1, safer_response_id=0),
        ASKED,
        SECOND_BETTER,
    ),
    "ratings in two rows": (
        row(
            {"prompt": "Q?", "response": "x", "helpfulness": 1, **RATED},
            {"prompt": "Q?", "response": "y", "helpfulness": 4, **RATED},
        ),
        ASKED,
        SECOND_BETTER,
    ),
    "preference strength": (
        row(prompt="Q?", response_1="x", response_2="y", preference_strength=-2),
        ASKED,
        FIRST_BETTER,
    ),
    "arena vote": (
        row(
            model_a="m",
            model_b="n",
            winner="model_b",
            conversation_a=[user("Q?"), assistant("x")],
            conversation_b=[user("Q?"), assistant("y")],
        ),
        ASKED,
        SECOND_BETTER,
    ),
    "arena tie": (
        row(
            prompt="Q?", response_a="x", response_b="y", model_a="m", model_b="n", winner="tie"
        ),
        ASKED,
        [[["x", "y"]]],
    ),
    "one column for each outcome": (
        row(
            prompt="Q?", response_a="x", response_b="y", winner_model_a=0, winner_model_b=1,
            winner_tie=0,
        ),
        ASKED,
        SECOND_BETTER,
    ),
    "scores in a list": (
        row(prompt="Q?", responses=["x", "y"], scores=[0.1, 0.9]),
        ASKED,
        SECOND_BETTER,
    ),
    "a rank for each column": (
        row(prompt="Q?", answer_1="x", answer_2="y", rank_1=2, rank_2=1),
        ASKED,
        SECOND_BETTER,
    ),
    "one model per row, sorted by model": (
        row(
            {"prompt": "Q?", "model": "a", "response": "x", "score": 2},
            {"prompt": "R?", "model": "a", "response": "z", "score": 2},
            {"prompt": "Q?", "model": "b", "response": "y", "score": 1},
        ),
        ASKED,
        FIRST_BETTER,
    ),
    "responses that look like JSON": (
        row(prompt="Q?", response_1="[]", response_2='{"a": 1}'),
        ASKED,
        [],
    ),
    "numbers and truth values as responses": (
        row(prompt="Q?", response_1=42, response_2=True),
        ASKED,
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_keeps_its_prompt_responses_and_preference(tmp_path, name):
    rows, question, preferred = SHAPES[name]
    records, tally = read(saved(tmp_path, rows))
    chat, texts, tiers, _, _ = records[0]
    assert chat == question and tiers == preferred
    assert texts == {"[": ["[]", '{"a": 1}'], "4": ["42", "true"]}.get(texts[0][0], ["x", "y"])
    accounted = {name for name, column in tally.columns.columns.items() if not column.nested}
    assert accounted == {name for entry in rows for name in entry}
    counts = [item.filled + item.empty for name, item in tally.columns.columns.items()]
    assert all(0 < count <= max(len(rows), len(texts)) for count in counts)


TYPED = {"numbers and truth values as responses", "responses that look like JSON"}
"""Formats whose texts look like other values in a cell of a table."""


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - TYPED))
@pytest.mark.parametrize("kind", ["a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.xlsx"])
def test_a_format_gives_the_same_result_in_every_kind_of_file(tmp_path, name, kind):
    rows, _, _ = SHAPES[name]
    expected = [item[:4] for item in read(saved(tmp_path, rows))[0]]
    assert [entry[:4] for entry in read(saved(tmp_path, rows, kind))[0]] == expected


@pytest.mark.parametrize("winner", ["tie (bothbad)", "both_bad"])
def test_both_bad_puts_the_line_above_both(tmp_path, winner):
    rows = row(prompt="Q?", response_a="x", response_b="y", winner=winner)
    [(_, _, tiers, cuts, _)], _ = read(saved(tmp_path, rows))
    assert tiers == [[["x", "y"]]] and cuts == [0]


@pytest.mark.parametrize(
    ("winner", "best"),
    [("A", "x"), ("b", "y"), ("response_b", "y"), ("model_a", "x"), ("gpt", "y")],
)
def test_a_winner_is_named_in_several_ways(tmp_path, winner, best):
    rows = row(
        prompt="Q?", response_a="x", response_b="y", model_a="llama", model_b="gpt", winner=winner
    )
    [(_, _, [tiers], _, _)], _ = read(saved(tmp_path, rows))
    assert tiers[0] == [best]


def test_a_winner_that_is_not_a_response_is_refused(tmp_path):
    rows = row(prompt="Q?", response_a="x", response_b="y", winner="model_c")
    with pytest.raises(BadInput, match="Line 1: \"winner\" is 'model_c', which is neither"):
        read(saved(tmp_path, rows))


# --- unclear columns -----------------------------------------------------------------------------


def test_no_prompt_is_extracted_from_answers(tmp_path):
    rows = row(chosen="No. Water would get into the switch.", rejected="Sure, lamps love rain.")
    with pytest.raises(UnclearColumns, match="No column contains the prompt"):
        read(saved(tmp_path, rows))
    alike = row(chosen="The lamp is tall.", rejected="The lamp is red.", topic="lamps")
    path = saved(tmp_path, alike)
    with pytest.raises(UnclearColumns, match="Choose the column of the prompt"):
        read(path)
    [(chat, _, tiers, _, _)], _ = read(path, "prompt=topic")
    assert chat == [("user", "lamps")] and tiers == [[["The lamp is tall."], ["The lamp is red."]]]


def test_a_list_of_answers_is_not_read_as_a_ranking(tmp_path):
    path = saved(tmp_path, row(instruction="Q?", input="", output=["x", "y"]))
    with pytest.raises(UnclearColumns, match="best_first=output"):
        read(path)
    assert read(path, "best_first=output")[0][0][2] == FIRST_BETTER
    assert read(path, "response=output")[0][0][2] == []


@pytest.mark.parametrize("name", ["my_rank", "vote", "human_preference", "Score (1-5)", "label"])
def test_a_column_that_may_be_a_preference_is_asked_about(tmp_path, name):
    path = saved(tmp_path, [{"prompt": "Q?", "response_1": "x", "response_2": "y", name: "great"}])
    if name == "vote":
        with pytest.raises(BadInput, match="neither one of the responses"):
            read(path)
        return
    with pytest.raises(UnclearColumns, match="looks like a preference"):
        read(path)
    assert read(path, f"metadata={name}")[0][0][4] == {name: "great"}
    records, tally = read(path, f"unused={name}")
    assert records[0][4] == {} and tally.columns.columns[name].meaning == "unused"


def test_a_file_without_a_prompt_asks_for_one(tmp_path):
    text = "sep=;\nFrage;Antwort 1;Antwort 2;Note\nWas?;x;y;z\n"
    (path := tmp_path / "a.csv").write_text(text)
    with pytest.raises(UnclearColumns, match="'Frage', 'Antwort 1', 'Antwort 2', 'Note'"):
        read(path)
    [(chat, texts, _, _, meta)], _ = read(path, "prompt=Frage", "response=Antwort *")
    assert chat == [("user", "Was?")] and texts == ["x", "y"] and meta == {"Note": "z"}


def test_a_mapping_names_columns_with_patterns_in_the_order_of_their_numbers(tmp_path):
    names = [f"answer_{n}" for n in range(1, 12)]
    path = saved(tmp_path, [{"q": "Q?", **{name: name for name in reversed(names)}}])
    [(_, texts, _, _, _)], _ = read(path, "prompt=q", "response=answer_*")
    assert texts == names


def test_a_mapping_of_names_in_either_normal_form(tmp_path):
    rows = [{"Frage\u0308": "Q?", "response_1": "x", "response_2": "y"}]
    assert read(saved(tmp_path, rows), "prompt=Frag\u00eb".replace("\u00eb", "e\u0308"))[0]


@pytest.mark.parametrize(
    ("pair", "sentence"), [("prompt", "must be MEANING=COLUMN"), ("promt=q", "is not a meaning")]
)
def test_a_wrong_mapping_is_refused(pair, sentence):
    with pytest.raises(BadInput, match=sentence):
        Mapping.parse([pair])


# --- cells as tools write them -------------------------------------------------------------------


def test_an_index_column_and_a_comma_at_the_end_are_not_data(tmp_path):
    (path := tmp_path / "a.csv").write_text(",prompt,response_1,response_2,\n0,Q?,x,y,\n")
    [(chat, texts, _, _, meta)], tally = read(path)
    assert chat == ASKED and texts == ["x", "y"] and meta == {}
    assert tally.columns.columns["Unnamed: 0"].meaning == "unused"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_nan_values_are_kept_as_null(tmp_path, text):
    content = f'{{"prompt": "p", "response_1": "a", "response_2": "b", "difficulty": {text}}}\n'
    (path := tmp_path / "a.jsonl").write_text(content)
    assert read(path)[0][0][4] == {"difficulty": None}
    (path := tmp_path / "a.json").write_text(f"[{content}]")
    assert read(path)[0][0][4] == {"difficulty": None}


def test_long_and_nested_values_are_kept_as_metadata(tmp_path):
    extra = {"notes": "n" * 5000, "tags": ["a", {"b": 1}], "big": 2**80}
    [(_, _, _, _, meta)], _ = read(
        saved(tmp_path, row(prompt="Q?", response_1="x", response_2="y", **extra))
    )
    assert meta == extra


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_a_chat_in_a_cell_is_read_as_json_or_as_python_writes_it(tmp_path, write):
    rows = [{"messages": write([user("Q?"), assistant("It's x")]), "score": 1}]
    [(chat, texts, _, _, _)], _ = read(saved(tmp_path, rows, "a.csv"))
    assert chat == ASKED and texts == ["It's x"]


def test_parts_that_are_not_text_are_counted_and_tool_turns_are_kept(tmp_path):
    chat = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Q?"}, {"type": "image", "url": "u"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
        {"from": "observation", "value": "42"},
        assistant("x"),
    ]
    [(question, texts, _, _, _)], tally = read(saved(tmp_path, row(messages=chat, source="s")))
    assert [role for role, _ in question] == ["user", "assistant", "tool"]
    assert question[0][1] == "Q?" and '"look"' in question[1][1] and texts == ["x"]
    assert tally.left_out["images, audio and other parts of messages that are not text"] == 1
    assert tally.changed["tool calls, written as JSON into their message"] == 1


def test_empty_responses_are_counted(tmp_path):
    rows = row(prompt="Q?", response_1="x", response_2="", response_3="y")
    [(_, texts, _, _, _)], tally = read(saved(tmp_path, rows))
    assert texts == ["x", "y"] and tally.left_out["empty responses"] == 1


def test_metadata_that_differs_between_the_rows_of_a_prompt_is_counted(tmp_path):
    rows = [{"prompt": "Q?", "response": text, "seen": text} for text in "xy"]
    _, tally = read(saved(tmp_path, rows))
    [reason] = [name for name in +tally.left_out if "metadata differs" in name]
    assert tally.left_out[reason] == 1


def test_a_workbook_with_two_sheets_of_data_is_refused(tmp_path):
    (path := tmp_path / "a.xlsx").write_bytes(workbook(row(prompt="Q?", response="x"), sheets=2))
    with pytest.raises(BadInput, match="one sheet with data; sheets with data: 'S1', 'S2'"):
        read(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(BadInput, match="cannot be read as an Excel file"):
        read(path)


def test_numbers_and_truth_values_of_a_workbook_keep_their_kind(tmp_path):
    rows = row(prompt="Q?", response_1="x", response_2="y", level=3, share=0.5, ok=True)
    assert read(saved(tmp_path, rows, "a.xlsx"))[0][0][4] == {"level": 3, "share": 0.5, "ok": True}


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16"])
def test_another_encoding_is_proposed_and_used_when_named(tmp_path, encoding):
    content = "prompt;response_1;response_2\nGr\u00f6\u00dfe?;gro\u00df;klein\n"
    (path := tmp_path / "a.csv").write_bytes(content.encode(encoding))
    with pytest.raises(BadInput):
        read(path)
    if encoding == "windows-1252":
        with pytest.raises(BadInput, match="Programs on Windows often write windows-1252"):
            read(path)
    with as_utf8(path, encoding) as copy:
        [(chat, texts, _, _, _)], _ = read(copy)
    assert chat == [("user", "Gr\u00f6\u00dfe?")] and texts == ["gro\u00df", "klein"]
    assert not copy.exists()


def test_a_wrong_encoding_is_refused(tmp_path):
    (path := tmp_path / "a.csv").write_bytes(b"prompt,response\x81\n")
    with pytest.raises(BadInput, match="not windows-1252 text"), as_utf8(path, "windows-1252"):
        pass


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_command_asks_and_takes_a_mapping(tmp_path):
    from django.core.management import CommandError

    project = make_project()
    path = saved(tmp_path, [{"Frage": "Q?", "a1": "x", "a2": "y", "note": 1}])
    with pytest.raises(CommandError, match=r"(?s)No column looks like a prompt.*--map"):
        run(path, "--project", project.slug)
    assert not Prompt.objects.exists()
    text = run(path, "--project", project.slug, "--map", "prompt=Frage", "--map", "response=a*")
    assert "Column note: metadata (1; '1')" in text and "Column a1: response" in text
    assert Prompt.objects.get().meta == {"note": 1}


@pytest.mark.django_db
def test_the_command_takes_an_encoding(tmp_path):
    (path := tmp_path / "a.csv").write_bytes("prompt\nGr\u00f6\u00dfe?\n".encode("windows-1252"))
    run(path, "--project", make_project().slug, "--encoding", "windows-1252")
    assert Prompt.objects.get().messages[0]["content"] == "Gr\u00f6\u00dfe?"


@pytest.mark.django_db
def test_ids_of_zero_are_kept(tmp_path):
    rows = [{"messages": [user("Q?")], "responses": ["x", "y"], "id": 0}]
    import_file(saved(tmp_path, rows), project=make_project())
    assert Prompt.objects.get().external_id == "0"


@pytest.mark.django_db
def test_scattered_rows_become_one_ranking_once(tmp_path):
    rows, _, _ = SHAPES["alpaca KTO, scattered"]
    project = make_project()
    path = saved(tmp_path, rows)
    assert import_file(path, project=project).written.new["rankings"] == 1
    assert not +import_file(path, project=project, format=FORMATS["columns"]).written.new
    assert Ranking.objects.get().cut == 1


def test_a_prompt_that_is_an_open_transcript_is_a_chat(tmp_path):
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Q?\n\nAssistant: "
    rows = row(prompt=prompt, answers=[{"answer": "x", "rank": 1}, {"answer": "y", "rank": 2}])
    [(chat, _, tiers, _, _)], tally = read(saved(tmp_path, rows))
    assert chat == [("user", "Hi"), ("assistant", "Hello."), ("user", "Q?")]
    assert tiers == FIRST_BETTER and sum(tally.changed.values()) == 1
    quoted = row(prompt="Human: Q?", response_1="x", response_2="y")
    assert read(saved(tmp_path, quoted))[0][0][0] == [("user", "Human: Q?")]


def test_the_models_of_both_sides_are_not_confused(tmp_path):
    from tests.labeling.importing.formats.test_import_fuzz import records_of

    rows = row(instruction="Q?", **{"chosen-model": "m", "chosen-rating": 5}, **SIDES)
    [record], _, _ = records_of(saved(tmp_path, rows))
    assert [response.model for response in record.responses] == ["m", "unknown"]
    assert record.meta == {"chosen-rating": 5}
