import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.preferences.groups import (
    Group,
    Judgment,
    PreferenceError,
    content_hash,
    keep_responses,
    read_groups,
    strict_wins,
    wins,
    write_groups,
)


def make_group(number: int = 0, **changes) -> Group:
    fields = {
        "group_id": f"g{number}",
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "response_ids": [11, 22, 33],
        "responses": ["one", "zwei", "三"],
        "rankings": [
            Judgment("r1", [[22], [11, 33]], cut=1, weight=2.0, guideline_version=4),
            Judgment("r2", [[11], [22]]),
        ],
        "split": "train",
        "meta": {"response_models": ["a", "b", "a"]},
    }
    return Group(**{**fields, **changes})


def test_wins_use_weights_split_ties_and_ignore_uncompared_pairs():
    # r1 (weight 2): 22 beats 11 and 33, which tie. r2 (weight 1): 11 beats 22; 33 is not ranked.
    expected = [[0, 1, 1], [2, 0, 2], [1, 0, 0]]
    assert wins(make_group()).tolist() == expected


def test_a_tie_counts_as_a_strict_win_for_neither():
    assert strict_wins(make_group()).tolist() == [[0, 1, 0], [2, 0, 2], [0, 0, 0]]


def test_wins_of_one_full_ranking_sum_to_the_number_of_pairs():
    ranking = Judgment("r", [[5, 3], [1], [4, 2, 6]])
    group = make_group(
        response_ids=[1, 2, 3, 4, 5, 6], responses=list("abcdef"), rankings=[ranking]
    )
    assert wins(group).sum() == 15
    assert np.all(wins(group) + wins(group).T + np.eye(6) == 1)


def test_a_written_file_can_be_read(tmp_path):
    groups = [make_group(number) for number in range(5)]
    assert write_groups(tmp_path / "p.parquet", groups, rows_at_once=2) == 5
    assert list(read_groups(tmp_path / "p.parquet", rows_at_once=3)) == groups


def test_an_empty_file_can_be_written_and_read(tmp_path):
    assert write_groups(tmp_path / "p.parquet", []) == 0
    assert list(read_groups(tmp_path / "p.parquet")) == []


def test_a_failed_write_leaves_no_file(tmp_path):
    with pytest.raises(PreferenceError, match="Group bad lists a response id twice"):
        bad = make_group(group_id="bad", response_ids=[1, 1, 2])
        write_groups(tmp_path / "p.parquet", [make_group(), bad], rows_at_once=1)
    assert not (tmp_path / "p.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"response_ids": [1, 2]}, "has 2 response ids for 3 responses"),
        ({"split": "dev"}, "the split 'dev'"),
        ({"rankings": [Judgment("r", [[11], [11]])]}, "places a response twice"),
        ({"rankings": [Judgment("r", [[99]])]}, r"does not hold: \[99\]"),
        ({"rankings": [Judgment("r", [[11]], weight=float("nan"))]}, "the weight nan"),
        ({"rankings": [Judgment("r", [[11]], cut=2)]}, "line is outside"),
        ({"rankings": [Judgment("r", [[11], [22]], strength=float("inf"))]}, "the strength inf"),
        ({"rankings": [Judgment("r", [[11], [22]], strength=-1.0)]}, "the strength -1.0"),
        ({"meta": {"ratings": [{}]}}, "1 entries of ratings for 2 rankings"),
        ({"meta": {"simulated": True}}, "has simulated in its meta that is not a list"),
        ({"meta": {"ranking_ids": [7]}}, "1 entries of ranking_ids for 2 rankings"),
        ({"meta": {"response_models": ["a"]}}, "1 entries of response_models for 3 responses"),
    ],
)
def test_an_invalid_row_is_refused_with_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(PreferenceError, match=sentence):
        write_groups(tmp_path / "p.parquet", [make_group(**changes)])


def test_a_file_without_preference_data_is_refused(tmp_path):
    pq.write_table(pa.table({"group_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(PreferenceError, match="it lacks prompt, response_ids"):
        list(read_groups(tmp_path / "other.parquet"))
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(PreferenceError, match="cannot be read as Parquet"):
        list(read_groups(tmp_path / "text.parquet"))


def test_the_hash_ignores_row_order_and_encoding(tmp_path):
    groups = [make_group(number) for number in range(20)]
    shuffled = random.Random(1).sample(groups, len(groups))
    write_groups(tmp_path / "p.parquet", shuffled, rows_at_once=3)
    table = pq.read_table(tmp_path / "p.parquet")
    pq.write_table(table, tmp_path / "q.parquet", compression="gzip", row_group_size=7)
    assert content_hash(groups) == content_hash(read_groups(tmp_path / "q.parquet"))


def test_the_hash_ignores_the_order_of_rankings_and_inside_a_tier():
    group = make_group()
    first, second = group.rankings
    turned = Judgment(**{**vars(first), "tiers": [[22], [33, 11]]})
    assert content_hash([group]) == content_hash([make_group(rankings=[second, turned])])


@pytest.mark.parametrize(
    "changes",
    [
        {"responses": ["one", "zwei", "drei"]},
        {"split": "test"},
        {"meta": {}},
        {"rankings": []},
        {"rankings": [Judgment("r1", [[22], [11, 33]], cut=2, weight=2.0, guideline_version=4)]},
        {"prompt": [{"role": "system", "content": "Question 0?"}]},
    ],
)
def test_the_hash_depends_on_every_field_of_a_row(changes):
    assert content_hash([make_group()]) != content_hash([make_group(**changes)])


def test_a_repeated_row_changes_the_hash():
    assert content_hash([make_group()]) != content_hash([make_group(), make_group()])


def test_dropping_responses_keeps_the_rest_of_each_ranking():
    remaining = keep_responses(make_group(), [33, 11])
    assert remaining.response_ids == [11, 33]
    assert remaining.responses == ["one", "三"]
    assert remaining.rankings[0] == Judgment(
        "r1", [[11, 33]], cut=0, weight=2.0, guideline_version=4
    )
    assert remaining.rankings[1].tiers == [[11]]


def test_dropping_responses_keeps_the_models_of_the_others():
    group = make_group(meta={"response_models": ["a", "b", "c"], "flags": [[], []]})
    assert keep_responses(group, [33, 22]).meta == {
        "response_models": ["b", "c"],
        "flags": [[], []],
    }
