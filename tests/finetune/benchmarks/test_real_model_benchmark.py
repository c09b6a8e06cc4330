"""Tests of `python -m benchmarks.real_model`, with a tiny model in the place of a real one."""

import json
import random
from dataclasses import replace

import pytest

from benchmarks.real_model import PROMPTS, SETTINGS, main, settings_of
from benchmarks.support.real_model.answers import compare
from benchmarks.support.real_model.data import read_rankings, with_lines
from finetune.methods.method import all_methods
from finetune.settings import FinetuneSettings
from recipes.preferences.groups import Judgment, line
from tests.finetune.training.training_runs import make_letters_model, ranked_group

pytestmark = pytest.mark.usefixtures("one_thread")


def lines_of(count):
    """Return lines of Tiebreak JSONL, in which the response with more b's is better."""
    rng = random.Random(0)
    for number in range(count):
        texts = sorted(
            {"".join(rng.choices("ab", k=5)) for _ in range(3)}, key=lambda t: t.count("b")
        )
        order = [[index] for index in reversed(range(len(texts)))]
        yield {
            "messages": [{"role": "user", "content": f"Question g{number}?"}],
            "responses": [{"text": text, "model": "m"} for text in texts],
            "rankings": [{"reviewer": "ada", "tiers": order}],
        }  # fmt: skip


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "rankings.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines_of(18)))
    return file


# --- data -------------------------------------------------------------------------------------------


def test_texts_that_are_too_long_are_left_out_and_counted(tmp_path):
    rows = list(lines_of(9))
    rows[0]["messages"][0]["content"] = "?" * 100
    rows[1]["responses"][0]["text"] = "b" * 100
    rows[2]["responses"] = rows[2]["responses"][:2]
    rows[2]["responses"][0]["text"] = " "
    rows[2]["rankings"] = [{"reviewer": "ada", "tiers": [[0], [1]]}]
    file = tmp_path / "rankings.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[3]]))
    rankings = read_rankings([file], len, longest_prompt=50, longest_response=50)
    assert rankings.left_out == {
        "prompts that are too long": 1,
        "responses that are too long or empty": 2,
        "prompts with fewer than two short responses": 1,
        "prompts that an earlier line has too": 1,
    }
    assert len(rankings.of("train")) + len(rankings.of("test")) == 7
    # The splits depend on the texts and not on the order of the lines.
    file.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    again = read_rankings([file], len, longest_prompt=50, longest_response=50)
    assert again.groups == rankings.groups


def test_a_file_without_enough_rankings_is_refused(tmp_path):
    file = tmp_path / "rankings.jsonl"
    file.write_text(json.dumps(next(iter(lines_of(1)))))
    with pytest.raises(ValueError, match="Only 1 prompts of"):
        read_rankings([file], len, longest_prompt=50, longest_response=50)


def test_a_ranking_without_a_line_gets_one_below_its_better_half():
    group = with_lines(ranked_group("g", ["a", "b", "c"], [[1], [0], [2]]))
    above, below = line(group)
    assert above.tolist() == [0, 1, 0] and below.tolist() == [1, 0, 1]
    tied = ranked_group("t", ["a", "b"], [[0, 1]])
    assert with_lines(tied) == tied
    lined = replace(tied, rankings=[Judgment("r", [[0], [1]], cut=2)])
    assert with_lines(lined) == lined


# --- figures ----------------------------------------------------------------------------------------


def answer(prompt, sample, score, tokens=4, text="x"):
    return {
        "prompt_id": prompt, "sample": sample, "score": score, "tokens": tokens, "text": text,
        "truncated": tokens > 9,
    }  # fmt: skip


def test_answers_are_compared_with_those_of_the_same_prompt_and_number():
    before = [answer("p", 0, 1.0), answer("p", 1, 2.0), answer("q", 0, -1.0), answer("r", 0, None)]
    after = [
        answer("q", 0, 1.0, 10, "y"), answer("p", 1, 2.0), answer("p", 0, 2.5, 6, "z"),
        answer("r", 0, 9.0),
    ]  # fmt: skip
    figures = compare(before, after)
    assert figures["answers"] == 3
    assert figures["score"]["value"] == pytest.approx((1.5 + 0.0 + 2.0) / 3)
    assert figures["win_rate"]["value"] == pytest.approx(2.5 / 3)
    assert figures["tokens"]["value"] == pytest.approx((6 + 2) / 4)
    assert figures["truncated"] == {"baseline": 0, "candidate": 0.25}
    assert figures["identical"] == 0.5 and figures["distinct"] == 0.75


def test_settings_are_read_by_method_and_refused_with_a_sentence():
    words = ["dpo.learning_rate=1e-4", "dpo.ties=half", "reward.epochs=1"]
    assert settings_of(words, ["dpo", "reward"]) == {
        "dpo": {"learning_rate": 1e-4, "ties": "half"},
        "reward": {"epochs": 1},
    }
    for wrong in ("dpo.learning_rate", "learning_rate=1", "ppo.learning_rate=1", "dpo.=1"):
        with pytest.raises(ValueError, match="one of dpo, reward"):
            settings_of([wrong], ["dpo", "reward"])


def test_every_method_has_settings():
    names = {method.name for method in all_methods()}
    assert SETTINGS.keys() == PROMPTS.keys() == names
    assert all(issubclass(method.settings, FinetuneSettings) for method in all_methods())


# --- the command ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmark_trains_compares_and_reuses_what_is_stored(tmp_path, data, capfd):
    model = make_letters_model(tmp_path / "model")
    folder = tmp_path / "runs"
    small = [
        "--prompts",
        "10",
        "--longest-answer",
        "8",
        "--answers",
        "1",
        "--turns",
        "1",
        "--folder",
        str(folder),
    ]
    quick = [
        "reward.epochs=1", "sft.learning_rate=0.03", "kto.epochs=1", "grpo.steps=2",
        "grpo.batch_size=2", "grpo.samples_per_prompt=2",
    ]  # fmt: skip
    methods = ["sft", "kto", "dpo", "grpo"]
    arguments = ["--model", str(model), "--data", str(data), *small, "--methods", *methods]
    assert main([*arguments, "--set", *quick]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["name"] == "real_model" and {"commit", "hardware", "versions"} <= result.keys()
    assert result["data"]["train"]["prompts"] == 12 and result["data"]["test"]["prompts"] == 6
    reward, sft, kto, dpo, grpo, *speed = result["cases"]
    assert reward["part"] == "reward" and reward["accuracy"]["pairs"] > 0
    assert sft["settings"]["learning_rate"] == 0.03
    assert sft["prompts"] == {"train": 10, "test": 6}
    assert sft["likelihood"]["change"]["value"] < 0
    for case in (sft, kto, dpo, grpo):
        assert case["answers_answers"] == 6 and case["peak_mb"] > 0
        assert case["answers_score"]["interval"] is not None
    assert grpo["score_change_in_training"]["value"] is not None and grpo["steps"] == 2
    assert [case["method"] for case in speed] == methods
    for case in speed:
        assert case["speedup_vs_trl"] > 0 and len(case["seconds_trl"]) == 1
    began = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    assert main([*arguments, "--set", *quick]) == 0
    again = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert again["cases"] == result["cases"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")} == began
    assert main([*arguments[:-4], "--speed", "dpo", "--set", *quick]) == 0
    alone = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert alone["cases"] == [reward, speed[2]]
