"""Property tests of imports with arbitrary keys, types and nesting."""

import json

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from labeling.importing.formats.columns import reader
from labeling.importing.formats.columns.grouping import ScatteredRows
from labeling.importing.formats.columns.mapping import MEANINGS, Mapping
from labeling.importing.reading import BadInput, detect, proposal_of
from labeling.importing.records import Tally
from tests.labeling.importing.formats.test_import_columns import read
from tests.labeling.importing.import_files import saved

KEYS = st.sampled_from(
    [
        "prompt",
        "question",
        "instruction",
        "input",
        "system",
        "history",
        "messages",
        "conversations",
        "chosen",
        "rejected",
        "response",
        "responses",
        "answers",
        "output",
        "completion",
        "label",
        "kto_tag",
        "rank",
        "ranks",
        "score",
        "scores",
        "winner",
        "preference_strength",
        "better_response_id",
        "response_0",
        "response_1",
        "response_a",
        "response_b",
        "model",
        "model_a",
        "model_b",
        "models",
        "id",
        "meta",
        "data",
        "fields",
        "annotations",
        "reviewer",
        "text",
    ]
) | st.text(min_size=1, max_size=8)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["model_a", "tie", "1", "true", "[]", '{"a": 1}', "Human: Hi"])
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "human", "?"])},
    optional={"content": LEAVES | st.lists(st.dictionaries(KEYS, LEAVES, max_size=2), max_size=2)},
)
VALUES = st.recursive(
    LEAVES | st.lists(MESSAGE, max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(KEYS, VALUES, min_size=1, max_size=6), min_size=1, max_size=4)
MANY = settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def records_of(path, mapping=None):
    format = detect(path)
    for scattered in (False, True):
        tally = Tally()
        try:
            if format.read is not None:
                return list(format.read(path, tally)), tally, format
            proposal = proposal_of(path, mapping)
            if proposal.questions:
                raise BadInput("asked")
            result = reader.read(
                path, tally, proposal.mapping, proposal.reviewer, scattered=scattered
            )
            return list(result), tally, format
        except ScatteredRows:
            continue
    raise AssertionError


def check(rows, records, tally, format):
    for record in records:
        assert record.messages and record.messages[-1]["role"] != "assistant"
        if format.name == "columns":
            assert all(response.text.strip() for response in record.responses)
        for task in record.tasks:
            assert 2 <= len(task.responses) <= 9
            for ranking in task.rankings:
                placed = [position for tier in ranking.tiers for position in tier]
                assert len(placed) == len(set(placed)) and set(placed) <= set(task.responses)
    if format.name == "columns":
        for name in {name for row in rows for name in row}:
            column = tally.columns.columns[name]
            assert column.filled + column.empty == sum(name in row for row in rows)


@given(rows=ROWS)
@MANY
def test_any_file_is_read_or_refused_with_a_sentence(tmp_path_factory, rows):
    path = saved(tmp_path_factory.mktemp("fuzz"), rows)
    try:
        result = records_of(path)
    except BadInput as problem:
        assert str(problem).strip()
        return
    check(rows, *result)


@given(rows=ROWS, meanings=st.lists(st.sampled_from(sorted(MEANINGS)), min_size=1, max_size=6))
@MANY
def test_any_mapping_of_any_file_is_read_or_refused_with_a_sentence(
    tmp_path_factory, rows, meanings
):
    names = list(dict.fromkeys(name for row in rows for name in row))
    chosen: dict[str, list[str]] = {}
    for number, name in enumerate(names):
        chosen.setdefault(meanings[number % len(meanings)], []).append(name)
    path = saved(tmp_path_factory.mktemp("fuzz"), rows)
    tally = Tally()
    try:
        mapping = Mapping.from_json(chosen)
        source = reader.read(path, tally, mapping, "import", scattered=True)
        records = list(source)
    except BadInput as problem:
        assert str(problem).strip()
        return
    check(rows, records, tally, detect(path))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=20)
WORDS = TEXT.filter(lambda text: text.strip() and text.strip()[0] not in "[{")
ORDERS = st.lists(WORDS, min_size=2, max_size=4, unique_by=str.strip).flatmap(
    lambda texts: st.tuples(WORDS, st.just(texts), st.permutations(range(1, len(texts) + 1)))
)


def columns_with_ranks(prompt, texts, ranks):
    row = {"prompt": prompt}
    row |= {f"response_{n}": text for n, text in enumerate(texts, 1)}
    return [row | {f"rank_{n}": rank for n, rank in enumerate(ranks, 1)}]


def list_with_ranks(prompt, texts, ranks):
    pairs = zip(texts, ranks, strict=True)
    return [{"question": prompt, "answers": [{"text": text, "rank": n} for text, n in pairs]}]


def rows_with_scores(prompt, texts, ranks):
    pairs = zip(texts, ranks, strict=True)
    return [{"instruction": prompt, "response": text, "score": -rank} for text, rank in pairs]


def lists_with_scores(prompt, texts, ranks):
    return [{"query": prompt, "responses": texts, "scores": [-rank for rank in ranks]}]


SHAPES = [columns_with_ranks, list_with_ranks, rows_with_scores, lists_with_scores]
KINDS = ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.xlsx"]


@given(order=ORDERS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_the_same_preference_is_read_from_every_shape_in_every_kind_of_file(
    tmp_path_factory, order
):
    prompt, texts, ranks = order
    folder = tmp_path_factory.mktemp("shapes")
    best_first = [text for _, text in sorted(zip(ranks, texts, strict=True))]
    for shape in SHAPES:
        rows = shape(prompt, texts, ranks)
        for kind in KINDS:
            if kind == "a.xlsx" and not _fits_xml(json.dumps(rows, ensure_ascii=False)):
                continue
            [(chat, _, tiers, _, _)], _ = read(saved(folder, rows, kind))
            where = (shape.__name__, kind)
            assert chat == [("user", prompt)], where
            assert tiers == [[[text] for text in best_first]], where


def _fits_xml(text: str) -> bool:
    return all(character >= " " and character not in "\ufffe\uffff" for character in text)
