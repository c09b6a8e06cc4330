"""Tests of unusual values in each format and kind of file."""

import json

import pytest

from labeling.core.text import storable
from labeling.importing.reading import BadInput, import_file
from labeling.importing.report import report
from labeling.models import Prompt, Ranking, Response
from tests.labeling.importing.formats.test_import_columns import SHAPES
from tests.labeling.importing.formats.test_import_formats import EXAMPLES, annotation, result
from tests.labeling.importing.import_files import assistant, saved, user
from tests.labeling.importing.test_import import OWN, pair, prompter, tree
from tests.labeling.importing.test_import import assistant as reply
from tests.labeling.world import make_project

pytestmark = pytest.mark.django_db

KINDS = ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.xlsx"]
TABLES = {"a.csv", "a.xlsx"}

ODD_TEXTS = [
    "half a pair \ud83d", "\udc00 the other half", "a\x00b", "a\u2028b", "a\u2029b", "a\u0085b", "a\u000bb",
    "\ufeffa", "[]", "{}", '["x"]', '{"a": 1}', '[{"a": 1}]', "null", "NaN", "true", "1e999", "007", "[1, 2]",
    '{"role": 3}', "=1+1", "sep=;", "1" * 30, "e\u0301", "\u00e9",
]  # fmt: skip
NOT_IN = {
    "a.csv": {"a\x00b"},
    "a.xlsx": {"a\x00b", "a\u000bb"},
}
"""Characters that a kind of file cannot hold as they are."""


def writable(text, kind):
    if kind in ("a.jsonl", "a.json"):
        return True
    return text.isprintable() or (storable(text) == text and text not in NOT_IN.get(kind, ()))


def chat(prompt, answer):
    return [user(prompt), assistant(answer)]


FORMATS = {
    "columns, a pair": lambda p, a, b: {"prompt": p, "chosen": a, "rejected": b},
    "columns, responses": lambda p, a, b: {"question": p, "response_1": a, "response_2": b},
    "columns, a list": lambda p, a, b: {"prompt": p, "answers": [{"text": a}, {"text": b}]},
    "columns, chats": lambda p, a, b: {
        "conversation_a": chat(p, a), "conversation_b": chat(p, b), "winner": "tie",
    },
    "ultrafeedback": lambda p, a, b: {
        "instruction": p,
        "completions": [{"model": "m", "response": text, "overall_score": n}
                        for n, text in enumerate((a, b))],
    },
    "helpsteer": lambda p, a, b: {
        "context": p, "response1": a, "response2": b, "overall_preference": 1,
        "individual_preference": [],
    },
    "labelstudio": lambda p, a, b: {
        "id": 1, "data": {"prompt": p, "text1": a, "text2": b},
        "annotations": [annotation(1, result("pairwise", {"selected": "left"}))],
    },
    "argilla": lambda p, a, b: {
        "id": "1", "fields": {"prompt": p, "reply-1": a, "reply-2": b},
        "responses": {"q": [{"value": ["reply-1", "reply-2"], "user_id": "u"}]},
    },
    "pandalm": lambda p, a, b: pair(p, ("a-7b", a), ("b-7b", b), (1, 2, 0)),
    "oasst": lambda p, a, b: tree(prompter(p, reply(a, 0), reply(b, 1))),
    "jsonl": lambda p, a, b: {"messages": [user(p)], "responses": [{"text": a}, {"text": b}]},
}  # fmt: skip
NESTED = {"ultrafeedback", "labelstudio", "argilla", "oasst", "jsonl", "pandalm"}
"""Formats whose structure does not fit into a cell of a table."""
CASES = [
    (name, kind) for name in FORMATS for kind in KINDS if not (name in NESTED and kind in TABLES)
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_unusual_text_is_unchanged(tmp_path, name, kind):
    texts = [text for text in ODD_TEXTS if writable(text, kind)]
    rows = [FORMATS[name](f"{n} {text}", text, f"{n}") for n, text in enumerate(texts)]
    imported = import_file(saved(tmp_path, rows, kind), project=make_project())
    expected = {f"{n} {storable(text)}": storable(text) for n, text in enumerate(texts)}
    prompts = {p.messages[-1]["content"]: p for p in Prompt.objects.all()}
    assert prompts.keys() == expected.keys()
    for number, (content, text) in enumerate(expected.items()):
        answers = set(prompts[content].responses.values_list("text", flat=True))
        assert answers == {text, f"{number}"}, text
    lost = sum(storable(text) != text for text in texts)
    assert sum(imported.tally.changed.values()) >= lost
    json.dumps(report(imported)).encode()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_prompt_that_happens_to_be_json_stays_a_text(tmp_path, name, kind):
    texts = ["[]", '["x"]', '{"a": 1}', '[{"a": 1}]', "null", "12"]
    rows = [FORMATS[name](text, "x", "y") for text in texts]
    import_file(saved(tmp_path, rows, kind), project=make_project())
    assert {p.messages[-1]["content"] for p in Prompt.objects.all()} == set(texts)


ONE_TYPE = {"columns, a list", "columns, chats", "ultrafeedback", "jsonl", "oasst"}
"""Formats in which texts of both kinds share a column of Parquet, which has one type."""


@pytest.mark.parametrize("value", [42, True, 0.5, 2**70, False])
@pytest.mark.parametrize("name", FORMATS)
def test_a_number_or_boolean_in_place_of_a_text_becomes_text(tmp_path, name, value):
    rows = [FORMATS[name](value, "x", "y"), FORMATS[name]("A?", value, "z")]
    kinds = ["a.jsonl", "a.json"]
    if name not in ONE_TYPE and value != 2**70:
        kinds.append("a.parquet")
    for kind in kinds:
        if kind == "a.parquet":
            rows = [FORMATS[name](value, value, "z")]
        project = make_project()
        import_file(saved(tmp_path, rows, kind), project=project)
        text = str(value) if name == "pandalm" else json.dumps(value)
        prompts = Prompt.objects.filter(project=project)
        assert any(p.messages[-1]["content"] == text for p in prompts), kind
        assert Response.objects.filter(prompt__project=project, text=text).exists(), kind


# --- each leaf of each format --------------------------------------------------------------------

ODD = [
    None, "", float("nan"), float("inf"), 2**70, 10**400, -1, True, [], {}, [None], "\ud83d\x00", "[]", [1],
]  # fmt: skip
WHOLE = {
    **EXAMPLES,
    "jsonl": [OWN],
    "pandalm": [pair("Greet.", ("a-7b", "Hi"), ("b-7b", "Yo"), (1, 1, 0))],
    "oasst": [tree(prompter("How?", reply("So.", 0), reply("Thus.", 1)))],
    **{f"columns, {name}": SHAPES[name][0] for name in sorted(SHAPES)},
}


def leaves(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))


def replaced(value, path, odd):
    if not path:
        return odd
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], odd)
    return copy


@pytest.mark.parametrize("name", WHOLE)
def test_an_unusual_value_anywhere_is_read_or_refused_with_a_sentence(tmp_path, name):
    rows = WHOLE[name]
    project = make_project()
    for path in leaves(rows[0]):
        if not path:
            continue
        for odd in ODD:
            where = f"{name}: {path} = {odd!r}"
            file = saved(tmp_path, [replaced(rows[0], path, odd), *rows[1:]])
            try:
                imported = import_file(file, project=project)
            except BadInput as problem:
                assert str(problem).strip(), where
                continue
            except Exception as error:
                raise AssertionError(where) from error
            json.dumps(report(imported), allow_nan=False).encode()


# --- Unicode names in either normal form ---------------------------------------------------------


def test_a_reviewer_and_a_winner_are_the_same_in_either_normal_form(tmp_path):
    row = {
        "prompt": "Q?",
        "response_a": "x",
        "response_b": "y",
        "model_a": "Zo\u00eb",
        "model_b": "m",
    }
    rows = [
        {**row, "winner": "Zoe\u0308", "reviewer": "Rene\u0301"},
        {**row, "prompt": "R?", "winner": "Zo\u00eb", "reviewer": "Ren\u00e9"},
    ]
    import_file(saved(tmp_path, rows), project=make_project())
    best = [Response.objects.get(pk=ranking.tiers[0][0]).text for ranking in Ranking.objects.all()]
    assert best == ["x", "x"]
    assert {ranking.reviewer.username for ranking in Ranking.objects.all()} == {"Ren\u00e9"}
