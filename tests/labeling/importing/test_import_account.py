"""Tests that the account of an import covers every key of every row in every format."""

import re

import pytest

from labeling.importing.reading import BadInput
from tests.labeling.importing.accounts_of_files import (
    UNKNOWN,
    differences,
    owner,
    paths,
    same,
    with_unknown_keys,
)
from tests.labeling.importing.formats.test_import_columns import SHAPES as TABLES
from tests.labeling.importing.formats.test_import_fuzz import records_of
from tests.labeling.importing.import_files import assistant, saved, user

IMAGE = {"type": "image_url", "image_url": {"url": "u"}, "detail": "low"}
PARTS = [{"type": "text", "text": "Q?", "cache_control": None}, IMAGE]
TOOLS = [
    {"role": "system", "content": "Be kind.", "name": "s"},
    {"role": "user", "content": PARTS, "timestamp": 1},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "look"}}],
    },
    {"role": "tool", "content": "42", "tool_call_id": "1"},
]
RANKED = {"ranker": {"rank": ["b", "a"]}}


def result(value, kind="ranker"):
    return {"id": "r", "from_name": "n", "to_name": "t", "type": kind, "value": value}


def message(role, text, replies=(), **more):
    return {"message_id": text, "role": role, "text": text, "lang": "en", "labels": {"spam": 0},
            "replies": list(replies), **more}  # fmt: skip


SHAPES = {
    "jsonl": [
        {"id": "a", "meta": {"topic": "t"}, "priority": 7, "messages": TOOLS,
         "responses": [{"text": "x", "model": "m", "seed": 1, "sampling": {"t": 0.5}}, {"text": "y"}],
         "rankings": [{"reviewer": "ada", "tiers": [[0], [1]], "rationale": "r", "source": "page"}]},
        {"messages": [user("R?")], "responses": ["x", "y"],
         "gold": {"constraints": [{"kind": "above", "a": 0, "b": 1}], "purpose": "check"}},
        {"messages": [user("S?")], "responses": [{"text": "x"}, {"text": "y"}], "tasks": [
            {"responses": [0, 1], "kind": "ranking", "rankings": [{"reviewer": "a", "tiers": [[0, 1]]}]},
        ]},
    ],
    "hh": [
        {"chosen": "\n\nHuman: Q?\n\nAssistant: x", "rejected": "\n\nHuman: Q?\n\nAssistant: y",
         "split": "train"},
        {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"},
    ],
    "ultrafeedback": [
        {"instruction": "Q?", "source": "s", "models": ["m"], "completions": [
            {"model": "m", "response": "x", "overall_score": 3, "fine-grained_score": 2, "critique": "c",
             "annotations": {"honesty": {"Rating": "4", "Rationale": "r"}}},
            {"model": "n", "response": "y", "overall_score": 5, "annotations": {}},
        ]},
        {"instruction": "R?", "source": "s", "models": [], "completions": [{"response": ""}]},
    ],
    "ultrafeedback lists": [
        {"instruction": "Q?", "generations": ["x", "y"], "ratings": [1, 2], "model_names": ["m", "n"],
         "order": ["x"]},
    ],
    "helpsteer": [
        {"context": TOOLS, "response1": "x", "response2": "y", "overall_preference": -2, "domain": "d",
         "individual_preference": [{"score": -2, "reasoning": "r", "feedback1": "f"}]},
    ],
    "oasst": [
        {"message_tree_id": "1", "tree_state": "ready_for_export", "prompt": message("prompter", "Q?", [
            message("assistant", "x", [message("prompter", "R?")], rank=0, emojis={"+1": 2}),
            message("assistant", "y", rank=1),
            message("assistant", "z", [message("prompter", "S?")], rank=2, deleted=True),
            message("assistant", " ", rank=3),
        ])},
    ],
    "pandalm": [
        {"instruction": "Q?", "input": "", "response1": "x", "response2": "y", "cmp_key": "a_b",
         "annotator1": 1, "annotator2": 0, "motivation_app": "m", "idx": 3},
    ],
    "labelstudio": [
        {"id": 0, "project": 3, "meta": {"a": 1}, "predictions": [{"score": 1, "result": []}],
         "data": {"prompt": "Q?", "topic": {"a": "b"}, "items": [
             {"id": "a", "title": "m", "body": "x", "html": "<b>x</b>"}, {"id": "b", "body": "y"}]},
         "annotations": [
             {"id": 1, "completed_by": {"id": 4, "email": "e"}, "lead_time": 2.5, "ground_truth": False,
              "result": [result(RANKED), result({"text": ["because"]}, "textarea"),
                         result({"rating": 4}, "rating")]},
             {"id": 2, "completed_by": 5, "was_cancelled": True, "result": None},
         ]},
        {"id": 1, "data": {"prompt": TOOLS, "answer1": "x", "answer2": "y", "model_answer1": "m"},
         "annotations": [{"completed_by": 5, "result": [result({"selected": "left"}, "pairwise")]}]},
    ],
    "labelstudio rows": [
        {"id": 1, "annotation_id": 2, "annotator": 4, "lead_time": 2.5, "created_at": "c",
         "prompt": "Q?", "topic": "t", "order": RANKED,
         "items": [{"id": "a", "body": "x"}, {"id": "b", "body": "y", "title": "m"}]},
    ],
    "argilla 2 records": [
        {"id": "1", "status": "completed", "_server_id": "s", "metadata": {"a": 1}, "vectors": {},
         "fields": {"prompt": "Q?", "reply-1": "x", "reply-2": "y", "note": 3},
         "suggestions": {"rank": {"value": ["reply-1"], "agent": "m"}},
         "responses": {
             "rank": [{"value": ["reply-2", "reply-1"], "user_id": "u", "status": "submitted"}],
             "why": [{"value": "because", "user_id": "u"}],
             "stars": [{"value": 3, "user_id": "u"}],
         }},
    ],
    "argilla 2 columns": [
        {"id": "1", "status": "completed", "prompt": "Q?", "reply-1": "x", "reply-2": "y", "topic": 3,
         "rank.responses": [["reply-2", "reply-1"]], "rank.responses.users": ["u"],
         "rank.responses.status": ["submitted"], "rank.suggestion": ["reply-1", "reply-2"],
         "rank.suggestion.score": None, "rank.suggestion.agent": "m"},
    ],
    "argilla 1 records": [
        {"external_id": "7", "metadata": {"a": 1}, "vectors": {},
         "fields": {"prompt": TOOLS, "reply-1": "x", "reply-2": "y"},
         "suggestions": [{"question_name": "rank", "value": [], "agent": "m", "score": 1}],
         "responses": [
             {"user_id": "u", "status": "submitted", "values": {
                 "rank": {"value": [{"rank": 1, "value": "reply-2"}, {"rank": 2, "value": "reply-1"}]}}},
             {"user_id": "v", "status": "discarded", "values": {}},
         ]},
    ],
    "argilla 1 columns": [
        {"prompt": "Q?", "reply-1": "x", "reply-2": "y", "external_id": "7", "metadata": '{"a": 1}',
         "rank": [{"user_id": "u", "status": "submitted", "value": [
             {"rank": 1, "value": "reply-2"}, {"rank": 2, "value": "reply-1"}]}],
         "rank-suggestion": [{"rank": 1, "value": "reply-1"}, {"rank": 2, "value": "reply-2"}],
         "rank-suggestion-metadata": {"type": None, "score": None, "agent": "m"}},
    ],
    "argilla 1 classification": [
        {"id": "1", "status": "Validated", "inputs": {"prompt": "Q?", "reply-1": "x", "reply-2": "y"},
         "text": None, "prediction": [{"label": "reply-1", "score": 0.9}], "prediction_agent": "m",
         "annotation": "reply-2", "annotation_agent": "u", "multi_label": False, "metadata": {"a": 1},
         "metrics": {"text_length": 3}},
    ],
    "a chat with tools and parts": [
        {"messages": [*TOOLS, {**assistant("x"), "weight": 1}], "score": 2, "tools": [{"name": "look"}]},
        {"messages": [*TOOLS, assistant("y")], "score": 1, "tools": []},
    ],
    "a history of messages": [
        {"instruction": "Q?", "history": [{**user("a"), "time": 1}, assistant("b")], "chosen": "x",
         "rejected": "y"},
    ],
    "a ranked list of messages": [
        {"prompt": "Q?", "answers": [
            {"role": "assistant", "content": "x", "rank": 1, "model": "m", "tokens": 3},
            {"text": "y", "rank": 2, "tokens": 4, "value": "w"}]},
    ],
    "preferred outputs": [
        {"input": {"messages": TOOLS, "tools": [{"a": 1}], "parallel_tool_calls": True},
         "preferred_output": [{**assistant("x"), "refusal": None}],
         "non_preferred_output": [assistant("y")]},
    ],
    **{f"table: {name}": rows for name, (rows, _, _) in TABLES.items()},
}  # fmt: skip

WHOLE = {
    "ultrafeedback": ["completions[].annotations"],
    "labelstudio": ["annotations[].result[].value.ranker", "data.prompt[].tool_calls"],
    "labelstudio rows": ["order.ranker"],
    "argilla 2 records": ["responses"],
    "argilla 1 records": ["responses[].values", "fields.prompt[].tool_calls"],
    "argilla 1 columns": ["rank[].value"],
    "helpsteer": ["context[].tool_calls"],
    "preferred outputs": ["input.messages[].tool_calls"],
    "a chat with tools and parts": ["messages[].tool_calls"],
}
"""Objects whose keys are data, such as names of questions, buckets and functions."""

NOT_USED = {"unused", "metadata", "nested"}


def message_of_tree(path):
    """Return a path with the messages of a tree merged, at any depth."""
    return re.sub(r"^prompt(\.replies\[\])*(?=\.)", "message", path)


def normal(name):
    return message_of_tree if name == "oasst" else same


@pytest.mark.parametrize("name", SHAPES)
def test_the_account_of_a_file_holds_each_of_its_values(tmp_path, name):
    _, tally, _ = records_of(saved(tmp_path, SHAPES[name]))
    assert differences(SHAPES[name], tally.columns.columns, normal(name)) == []


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"jsonl"}))
def test_an_unknown_key_anywhere_is_counted_as_kept_or_not_used(tmp_path, name):
    rows = with_unknown_keys(SHAPES[name], WHOLE.get(name, ()))
    _, tally, _ = records_of(saved(tmp_path, rows))
    columns = tally.columns.columns
    assert differences(rows, columns, normal(name)) == []
    inserted = {normal(name)(path) for row in rows for path, _ in paths(row) if UNKNOWN in path}
    meanings = {path: columns[owner(path, columns)].meaning for path in inserted}
    assert inserted and {p: m for p, m in meanings.items() if m not in NOT_USED} == {}


def test_the_products_own_lines_refuse_an_unknown_key(tmp_path):
    for row in SHAPES["jsonl"]:
        [changed] = with_unknown_keys([row], ["messages"])
        with pytest.raises(BadInput, match=UNKNOWN):
            records_of(saved(tmp_path, [changed]))


@pytest.mark.parametrize("kind", ["a.json", "a.csv", "a.xlsx"])
@pytest.mark.parametrize("name", [n for n in SHAPES if n != "jsonl" and not n.startswith("table:")])
def test_a_shape_gives_the_same_prompts_and_rankings_in_every_kind_of_file(tmp_path, name, kind):
    expected, _, _ = records_of(saved(tmp_path, SHAPES[name]))
    records, _, _ = records_of(saved(tmp_path, SHAPES[name], kind))
    assert [item.messages for item in records] == [entry.messages for entry in expected]
    assert [one.responses for one in records] == [one.responses for one in expected]
    rankings = [[task.rankings for task in record.tasks] for record in records]
    assert rankings == [[task.rankings for task in record.tasks] for record in expected]


# --- the account and the stored rows -------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"oasst", "pandalm", "jsonl"}))
def test_columns_kept_as_metadata_are_in_the_metadata_of_the_prompt(tmp_path, name):
    records, tally, _ = records_of(saved(tmp_path, SHAPES[name]))
    stored = {key for record in records for key in record.meta} | {"metadata"}
    claimed = {
        path
        for path, item in tally.columns.columns.items()
        if item.meaning == "metadata" and item.filled
    }
    assert {path.split(".")[-1] for path in claimed} <= stored


CHATS = {
    "jsonl": [{"messages": TOOLS, "responses": ["x", "y"]}],
    "helpsteer": [
        {"context": TOOLS, "response1": "x", "response2": "y", "overall_preference": 1}
    ],
    "ultrafeedback": [
        {"instruction": TOOLS, "completions": [{"response": "x", "overall_score": 1},
                                               {"response": "y", "overall_score": 2}]}
    ],
    "labelstudio": [
        {"id": 1, "data": {"messages": TOOLS, "answer1": "x", "answer2": "y"}, "annotations": []}
    ],
    "argilla": [{"fields": {"chat": TOOLS, "reply-1": "x", "reply-2": "y"}, "responses": {}}],
    "columns": [{"messages": [*TOOLS, assistant("x")], "source": "s"},
                {"messages": [*TOOLS, assistant("y")], "source": "s"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "a.jsonl") for name in CHATS]
    + [(name, "a.csv") for name in CHATS if name != "argilla"],
)
def test_every_reader_of_chats_keeps_texts_and_tools_and_counts_the_rest(tmp_path, name, kind):
    rows = CHATS[name]
    [record], tally, format = records_of(saved(tmp_path, rows, kind))
    assert format.name == name
    roles = [message["role"] for message in record.messages]
    assert roles == ["system", "user", "assistant", "tool"]
    assert record.messages[1]["content"] == "Q?" and '"look"' in record.messages[2]["content"]
    assert [response.text for response in record.responses] == ["x", "y"]
    turns = len(rows)
    assert tally.left_out["images, audio and other parts of messages that are not text"] == turns
    assert tally.changed["tool calls, written as JSON into their message"] == turns
    unused = {path.split("[].")[-1] for path, column in tally.columns.columns.items() if column.nested
              and column.meaning == "unused"}  # fmt: skip
    assert {"name", "timestamp", "tool_call_id", "cache_control", "image_url"} <= unused


BLANK = {
    "helpsteer": [{"context": "Q?", "response1": " ", "response2": "y", "overall_preference": 1}],
    "ultrafeedback": [
        {"instruction": "Q?", "completions": [{"response": "", "overall_score": 9},
                                              {"response": "y", "overall_score": 2}]}
    ],
    "hh": [{"chosen": "\n\nHuman: Q?\n\nAssistant: ", "rejected": "\n\nHuman: Q?\n\nAssistant: y"}],
    "labelstudio": [
        {"id": 1, "data": {"prompt": "Q?", "answer1": "", "answer2": "y"},
         "annotations": [{"completed_by": 1, "result": [result({"selected": "right"})]}]}
    ],
    "argilla": [
        {"fields": {"prompt": "Q?", "reply-1": " ", "reply-2": "y"},
         "responses": {"rank": [{"value": ["reply-2", "reply-1"], "user_id": "u"}]}}
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", BLANK)
def test_an_empty_response_is_never_a_card_and_its_ranking_is_counted(tmp_path, name):
    [record], tally, _ = records_of(saved(tmp_path, BLANK[name]))
    assert [response.text for response in record.responses] == ["y"] and not record.tasks
    assert tally.left_out["empty responses"] == 1
    assert tally.left_out["rankings with fewer than two responses that are not empty"] == 1


def test_an_empty_response_among_several_leaves_the_order_of_the_others(tmp_path):
    completions = [{"response": text, "overall_score": n} for n, text in enumerate(["x", "", "y"])]
    [record], _, _ = records_of(
        saved(tmp_path, [{"instruction": "Q?", "completions": completions}])
    )
    texts = [response.text for response in record.responses]
    [[ranking]] = [task.rankings for task in record.tasks]
    assert [[texts[position] for position in tier] for tier in ranking.tiers] == [["y"], ["x"]]


ODD = {
    "a bucket that is not a list": [
        {"id": 1, "data": {"prompt": "Q?", "items": [{"id": "a", "body": "x"}, {"id": "b", "body": "y"}]},
         "annotations": [{"result": [result({"ranker": {"good": True, "bad": ["a"]}})]}]}
    ],
    "a ranker that is a number": [
        {"id": 1, "data": {"prompt": "Q?", "items": [{"id": "a", "body": "x"}, {"id": "b", "body": "y"}]},
         "annotations": [{"result": [result({"ranker": 3})]}]}
    ],
    "items with the same id": [
        {"id": 1, "data": {"prompt": "Q?", "items": [{"id": 1, "body": "x"}, {"id": 1, "body": "y"}]},
         "annotations": []}
    ],
    "lists of different lengths": [
        {"instruction": "Q?", "generations": ["x", "y"], "ratings": [1], "model_names": ["m", "n"]}
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_row_that_contradicts_itself_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match=r"Line 1: .*(list|same id)"):
        records_of(saved(tmp_path, ODD[name]))


def test_suggestions_of_another_type_are_not_counted(tmp_path):
    fields = {"prompt": "Q?", "reply-1": "x", "reply-2": "y"}
    row = {"fields": fields, "responses": {}, "suggestions": True}
    _, tally, _ = records_of(saved(tmp_path, [row]))
    assert not +tally.left_out and tally.columns.columns["suggestions"].meaning == "unused"


def test_a_response_that_is_an_object_is_counted_at_its_path(tmp_path):
    rows = [{"prompt": "Q?", "response_1": {"text": "x", "tokens": 1}, "response_2": "y"}]
    _, tally, _ = records_of(saved(tmp_path, rows))
    assert differences(rows, tally.columns.columns) == []
    assert tally.columns.columns["response_1.tokens"].meaning == "unused"
