import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from recipes.errors import RecipeError, Stopped
from recipes.layout.collate import Collator, step_collator
from recipes.preferences.groups import read_groups
from recipes.preferences.objective import Objective
from recipes.rundir import MOVED_BASE, STOPPED, RunDir, RunDirError
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training.callbacks import ProgressEvents
from recipes.training.trainer import GroupTrainer, WatchHeldOut
from reward.evaluation.report import Scored, accuracy
from reward.settings import RewardConfig
from reward.training.models.reward_model import RewardModel
from reward.training.score import Scorer, score_file
from reward.training.train import train
from tests.forks import Program
from tests.reward.world import make_groups, make_run, messages, tiny_llama

torch.set_num_threads(1)

ROOT = Path(__file__).parents[3]
FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, llama) -> RunDir:
    """Run 32 uninterrupted steps, with a checkpoint every four."""
    run_dir = make_run(
        tmp_path_factory.mktemp("run"), llama, make_groups(64, 24), checkpoint_steps=4
    )
    train(run_dir, StopSignal())
    return run_dir


def same_run(folder: Path, llama: Path) -> RunDir:
    return make_run(folder, llama, make_groups(64, 24), checkpoint_steps=4)


def start(run_dir: RunDir) -> Program:
    return Program("reward.training.train", run_dir.path)


def wait_for_checkpoint(run_dir: RunDir, process: Program) -> None:
    deadline = time.monotonic() + 90
    while not list(run_dir.checkpoints.glob("checkpoint-*")):
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline, "no checkpoint within 90 seconds"
        time.sleep(0.002)


def assert_same_weights(one: RunDir, other: RunDir, atol: float = 1e-5) -> None:
    ours, theirs = load_file(one.output / FILE), load_file(other.output / FILE)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=atol, rtol=0)


# --- files of a run -------------------------------------------------------------------------------


def test_training_learns_the_rule_and_publishes_everything(finished):
    names = {path.name for path in finished.output.iterdir()}
    assert {FILE, "adapter_config.json", "tokenizer.json", "report.json", "README.md"} <= names
    report = json.loads((finished.output / "report.json").read_text())
    assert report["accuracy"]["value"] > 0.8
    assert report["reviewer_agreement"]["value"] == 1.0
    assert report["training"]["layout"] == "shared"
    assert report["data"]["train"]["prompts"] == 64 and report["data"]["test"]["prompts"] == 24
    assert "[response 1 · positions" in report["first_batch"]
    assert "accuracy on strict pairs" in (finished.output / "README.md").read_text()


def test_events_report_the_progress_and_end_with_the_result(finished):
    events = finished.events()
    steps = [e["step"] for e in events if e["event"] == "progress"]
    assert steps == sorted(steps) and steps[-1] == 32
    assert {e["total"] for e in events if e["event"] == "progress"} == {32}
    watched = [e for e in events if "test_accuracy" in e.get("metrics", {})]
    assert len(watched) == 2  # after the first epoch, and from the report
    assert watched[-1]["metrics"]["test_accuracy"] == events[-1]["result"]["accuracy"]["value"]
    assert events[-1]["event"] == "result"
    assert 0 <= events[-1]["result"]["accuracy"]["value"] <= 1


def test_checkpoints_are_complete_and_few(finished):
    names = [path.name for path in finished.checkpoints.iterdir() if not path.name.startswith(".")]
    assert sorted(names) == ["checkpoint-28", "checkpoint-32"]


def test_running_a_finished_run_again_changes_no_weight(finished):
    before = load_file(finished.output / FILE)
    train(finished, StopSignal())
    for name, weight in load_file(finished.output / FILE).items():
        assert torch.equal(weight, before[name])


# --- stopping and going on ------------------------------------------------------------------------


def test_a_resumed_run_gives_the_same_weights(finished, tmp_path, llama):
    run_dir = same_run(tmp_path, llama)
    process = start(run_dir)
    wait_for_checkpoint(run_dir, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not run_dir.output.exists()
    train(run_dir, StopSignal())
    assert any(text.startswith("Resuming from checkpoint-") for text in messages(run_dir, "info"))
    assert_same_weights(finished, run_dir)


def test_a_run_with_a_damaged_newest_checkpoint_resumes_from_the_previous_one(finished, tmp_path):
    run_dir = RunDir(shutil.copytree(finished.path, tmp_path / "copy"))
    shutil.rmtree(run_dir.output)
    weights = run_dir.checkpoints / "checkpoint-32" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    train(run_dir, StopSignal())
    assert "Resuming from checkpoint-28." in messages(run_dir, "info")
    assert "checkpoint-32 is damaged: model.safetensors" in messages(run_dir, "warning")[-1]
    assert_same_weights(finished, run_dir)


def test_a_full_disk_ends_the_run_names_the_folder_and_leaves_no_partial_checkpoint(
    tmp_path, llama
):
    run_dir = same_run(tmp_path, llama)
    ended = subprocess.run(
        [sys.executable, "-m", "reward.training.train", str(run_dir.path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000)),
    )  # fmt: skip
    assert ended.returncode == 1
    (error,) = messages(run_dir, "error")
    assert error.startswith(f"No space is left in {run_dir.path}")
    assert "Free some space, then try again." in error
    assert not list(run_dir.checkpoints.rglob("*")) and not run_dir.output.exists()


def test_a_reward_model_loads_after_its_base_has_moved(finished, tmp_path, llama):
    """Check an adapter that names a missing folder, as after a move of the checkout."""
    output = shutil.copytree(finished.output, tmp_path / "12" / "output")
    base = shutil.copytree(llama, tmp_path / "elsewhere")
    spec = json.loads((output / "adapter_config.json").read_text())
    spec["base_model_name_or_path"] = "/no/longer/there"
    (output / "adapter_config.json").write_text(json.dumps(spec))
    conversations = [([{"role": "user", "content": "Hi"}], ["a", "bb"])]
    with pytest.raises(RecipeError, match="/no/longer/there"):
        Scorer(output)
    (output.parent / MOVED_BASE).write_text(str(base))
    expected = Scorer(finished.output).score(conversations)
    assert np.array_equal(Scorer(output).score(conversations)[0], expected[0])


def test_sigterm_writes_a_checkpoint_and_the_same_command_resumes(finished, tmp_path, llama):
    run_dir = same_run(tmp_path, llama)
    process = start(run_dir)
    wait_for_checkpoint(run_dir, process)
    process.terminate()
    assert process.wait(timeout=60) == STOPPED
    assert not run_dir.output.exists()
    train(run_dir, StopSignal())
    assert_same_weights(finished, run_dir)


def test_a_stop_during_the_first_step_keeps_that_step(tmp_path, llama):
    run_dir = make_run(tmp_path, llama, make_groups(8, 2))
    stop = StopSignal()
    stop.requested = True
    with pytest.raises(Stopped):
        train(run_dir, stop)
    assert [path.name for path in run_dir.checkpoints.glob("checkpoint-*")] == ["checkpoint-1"]


@pytest.mark.parametrize(("step", "watched"), [(16, [16]), (9, []), (32, [])])
def test_held_out_prompts_are_watched_after_an_epoch_but_not_while_a_run_stops(
    tmp_path, step, watched
):
    """Check 32 steps in two epochs, whose end Trainer reports after a stop and after the last step."""
    informed_run = RunDir(tmp_path)
    control = TrainerControl(should_training_stop=step != 16)
    state = TrainerState(global_step=step, max_steps=32, is_world_process_zero=True)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    WatchHeldOut(lambda last: {"test_accuracy": 0.75}, ProgressEvents(informed_run)).on_epoch_end(
        args, state, control
    )
    assert [
        e["step"] for e in informed_run.events() if e.get("metrics") == {"test_accuracy": 0.75}
    ] == watched


# --- equivalent settings, one trajectory ----------------------------------------------------------


def test_the_micro_batch_does_not_change_the_weights(tmp_path, llama):
    # 20 prompts: the last step of an epoch is an incomplete batch.
    runs = []
    for micro in (8, 1):
        settings = {"batch_size": 8, "micro_batch_size": micro, "lora_dropout": 0.0}
        runs.append(make_run(tmp_path / str(micro), llama, make_groups(20, 0), **settings))
        train(runs[-1], StopSignal())
    assert_same_weights(*runs)


def test_plain_and_shared_layouts_give_the_same_weights(tmp_path, llama):
    runs = []
    for layout in ("auto", "plain"):
        settings = {"layout": layout, "lora_dropout": 0.0, "epochs": 1}
        runs.append(make_run(tmp_path / layout, llama, make_groups(12, 0), **settings))
        train(runs[-1], StopSignal())
    assert_same_weights(*runs)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_result(tmp_path, llama, monkeypatch):
    settings = {"lora_dropout": 0.0, "epochs": 1}
    whole = make_run(tmp_path / "whole", llama, make_groups(12, 0), **settings)
    train(whole, StopSignal())
    forward = RewardModel.forward

    def small_machine(self, present, **batch):
        if self.training and len(present) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, present=present, **batch)

    monkeypatch.setattr(RewardModel, "forward", small_machine)
    tight = make_run(tmp_path / "tight", llama, make_groups(12, 0), **settings)
    train(tight, StopSignal())
    [warning] = [text for text in messages(tight, "warning") if "memory" in text]
    assert "continuing with 2" in warning
    assert_same_weights(whole, tight)


# --- scoring --------------------------------------------------------------------------------------


def test_a_new_process_gives_the_same_score_of_each_response(finished, tmp_path):
    source = finished.data / "preferences.parquet"
    command = [sys.executable, "-m", "reward.training.score", str(finished.output), str(source)]
    target = tmp_path / "scored.parquet"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(target)], cwd=ROOT, env=environment, check=True)
    groups = list(read_groups(source))
    ours = Scorer(finished.output).score([(group.prompt, group.responses) for group in groups])
    theirs = pq.read_table(target).column("scores").to_pylist()
    for row, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(row, other, atol=1e-5)


def test_an_ordinary_classifier_with_the_adapter_gives_the_same_score(finished, llama):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished.output)
    base = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=1)
    base.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(base, finished.output).eval()
    prompt = [{"role": "user", "content": "Write 7 letters."}]
    [ours] = Scorer(finished.output).score([(prompt, ["axxb", "zzz"])])
    for response, score in zip(["axxb", "zzz"], ours, strict=True):
        chat = [*prompt, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        with torch.no_grad():
            logits = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits
        assert logits[0, 0].item() == pytest.approx(float(score), abs=1e-5)


def test_sampled_text_is_scored_in_its_own_order_and_the_unreadable_gets_null(finished, tmp_path):
    first, second = ([{"role": "user", "content": text}] for text in ("One", "Two"))
    rows = [
        {"prompt_id": "1", "prompt": first, "response": "xxx", "sample": 0},
        {"prompt_id": "2", "prompt": second, "response": "abz", "sample": 0},
        {"prompt_id": "1", "prompt": first, "response": "y" * 600, "sample": 1},
        {"prompt_id": "1", "prompt": first, "response": "bbb", "sample": 2},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    scorer = Scorer(finished.output)
    assert score_file(scorer, tmp_path / "in.parquet", tmp_path / "out.parquet") == 3
    scored = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["prompt_id"] for row in scored] == ["1", "2", "1", "1"]
    assert scored[2]["score"] is None
    assert scored[0]["score"] > scored[3]["score"]
    [alone] = scorer.score([(second, ["abz"])])
    assert scored[1]["score"] == pytest.approx(float(alone[0]), abs=1e-5)


def test_more_responses_than_fit_a_row_score_as_if_alone(finished):
    scorer = Scorer(finished.output)
    prompt = [{"role": "user", "content": "Many"}]
    responses = ["x" * n + "ab" for n in range(20)]
    [together] = scorer.score([(prompt, responses)])
    alone = [scorer.score([(prompt, [response])])[0][0] for response in responses]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_scoring_refuses_a_folder_without_a_reward_model(tmp_path):
    with pytest.raises(RecipeError, match="is not the output of a reward run"):
        Scorer(tmp_path)


# --- refusals -------------------------------------------------------------------------------------


def test_training_without_data_is_refused_with_status_1_and_a_message(tmp_path, llama, monkeypatch):
    run_dir = make_run(tmp_path, llama, make_groups(0, 3))
    monkeypatch.setattr(sys, "argv", ["train", str(run_dir.path)])
    monkeypatch.setattr(StopSignal, "listen", lambda self: None)  # keep this process's handler
    assert run_recipe(train, "") == 1
    last = run_dir.events()[-1]
    assert last["level"] == "error" and last["text"].startswith("There is nothing to train on")
    assert not run_dir.output.exists()


def test_the_reasons_are_listed_when_all_rankings_were_filtered(tmp_path, llama):
    run_dir = make_run(tmp_path, llama, make_groups(3, 0), max_tokens=20)
    with pytest.raises(RecipeError, match="9 responses: longer than 20 tokens"):
        train(run_dir, StopSignal())


def test_omissions_appear_in_events_and_report(tmp_path, llama):
    run_dir = make_run(tmp_path, llama, make_groups(16, 4), max_tokens=28, epochs=0.25)
    train(run_dir, StopSignal())
    rows = json.loads((run_dir.output / "report.json").read_text())["left_out"]
    assert rows and sum(row["count"] for row in rows) > 0
    assert any("longer than 28 tokens" in text for text in messages(run_dir, "warning"))


def test_a_weight_that_is_not_a_number_ends_the_run_before_the_first_step(tmp_path):
    from transformers import AutoModelForCausalLM

    path = tiny_llama(tmp_path)
    broken = AutoModelForCausalLM.from_pretrained(path)
    broken.model.norm.weight.data[0] = float("nan")
    broken.save_pretrained(path)
    run_dir = make_run(tmp_path / "run", path, make_groups(8, 2))
    with pytest.raises(RecipeError, match="The loss was not finite at step 1"):
        train(run_dir, StopSignal())
    assert not list(run_dir.checkpoints.glob("checkpoint-*")) and not run_dir.output.exists()


def test_an_infinite_loss_in_a_part_stops_the_run_after_the_step(tmp_path, llama, monkeypatch):
    honest, parts = Objective.losses, []

    def first_part_infinite(self, outputs, batch):
        losses = honest(self, outputs, batch)
        parts.append(len(losses))
        return losses + torch.inf if len(parts) == 1 else losses

    monkeypatch.setattr(Objective, "losses", first_part_infinite)
    run_dir = make_run(tmp_path, llama, make_groups(8, 2), micro_batch_size=1)
    with pytest.raises(RecipeError, match="The loss was not finite at step 1"):
        train(run_dir, StopSignal())
    assert parts == [1, 1, 1, 1]  # the loss was checked once, after all parts
    assert not list(run_dir.checkpoints.glob("checkpoint-*"))


def test_many_tokens_are_counted_to_the_last_one(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    trainer = GroupTrainer(model=torch.nn.Linear(1, 1), args=args)
    trainer._tokens = torch.tensor(2**24 + 1)  # more than float32 can count
    trainer.log({"loss": 1.0})
    assert trainer.state.log_history[-1]["num_tokens"] == 2**24 + 1


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path, llama, monkeypatch):
    honest = Objective.losses

    def finite_loss_infinite_slope(self, outputs, batch):
        return honest(self, outputs, batch) + torch.sqrt((outputs * 0).sum())

    monkeypatch.setattr(Objective, "losses", finite_loss_infinite_slope)
    run_dir = make_run(tmp_path, llama, make_groups(8, 2))
    with pytest.raises(RecipeError, match="gradient was not finite at step 1"):
        train(run_dir, StopSignal())
    assert not list(run_dir.checkpoints.glob("checkpoint-*"))


def test_a_family_without_shared_prompts_is_reported_and_trains(tmp_path):
    path = tiny_llama(tmp_path, family="bloom")
    run_dir = make_run(tmp_path / "run", path, make_groups(8, 2), epochs=1)
    train(run_dir, StopSignal())
    [warning] = [text for text in messages(run_dir, "warning") if "cannot share the prompt" in text]
    assert "one copy of the prompt per response" in warning
    report = json.loads((run_dir.output / "report.json").read_text())
    assert report["training"]["layout"] == "plain"


def test_a_missing_model_or_an_adapter_is_refused_with_a_sentence(tmp_path, finished):
    run_dir = make_run(tmp_path / "a", tmp_path / "nowhere", make_groups(2, 0))
    with pytest.raises(RecipeError, match="nowhere cannot be loaded"):
        train(run_dir, StopSignal())
    run_dir = make_run(tmp_path / "b", finished.output, make_groups(2, 0))
    with pytest.raises(RecipeError, match="is an adapter"):
        train(run_dir, StopSignal())


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunDirError, match="does not exist"):
        train(RunDir(tmp_path), StopSignal())


# --- options that change how it trains ------------------------------------------------------------


def test_rank_zero_trains_every_weight_and_saves_a_whole_model(tmp_path, llama):
    run_dir = make_run(tmp_path, llama, make_groups(8, 4), lora_r=0, learning_rate=1e-3)
    train(run_dir, StopSignal())
    assert (run_dir.output / "model.safetensors").is_file()
    report = json.loads((run_dir.output / "report.json").read_text())
    assert report["training"]["trained_weights"] == report["training"]["weights"]
    prompt = [{"role": "user", "content": "Write 7 letters."}]
    assert np.isfinite(Scorer(run_dir.output).score([(prompt, ["axx", "b"])])[0]).all()


def test_recomputing_activations_changes_no_result(tmp_path, llama):
    runs = []
    for recompute in (False, True):
        settings = {"gradient_checkpointing": recompute, "epochs": 1, "lora_dropout": 0.0}
        runs.append(make_run(tmp_path / str(recompute), llama, make_groups(8, 0), **settings))
        train(runs[-1], StopSignal())
    assert_same_weights(*runs)


def test_bfloat16_trains_close_to_float32(tmp_path, llama):
    run_dir = make_run(tmp_path, llama, make_groups(64, 24), dtype="bfloat16")
    train(run_dir, StopSignal())
    report = json.loads((run_dir.output / "report.json").read_text())
    assert report["accuracy"]["value"] > 0.75
    groups = [g for g in read_groups(run_dir.data / "preferences.parquet") if g.split == "test"]
    scores = Scorer(run_dir.output).score([(group.prompt, group.responses) for group in groups])
    rows = [Scored(g, s, s) for g, s in zip(groups, scores, strict=True)]
    assert accuracy(rows)["value"] == pytest.approx(report["accuracy"]["value"], abs=0.05)


SPEED = (
    "micro_batch_size",
    "tokens_at_once",
    "packing",
    "layout",
    "dtype",
    "gradient_checkpointing",
    "compile",
)


@pytest.mark.parametrize("name", SPEED)
def test_the_settings_for_speed_are_documented_with_their_defaults(name):
    page = (Path(__file__).parents[3] / "docs" / "reward-training.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}`")]
    [option] = [option for option in RewardConfig.options() if option.name == name]
    shown = {None: "no limit", False: "off"}.get(option.default, str(option.default))
    assert row.split("|")[2].strip().strip("`") == shown


def test_the_report_has_the_packing_and_the_attention(tmp_path, llama):
    for packing, packed in (("auto", True), ("never", False)):
        run_dir = make_run(
            tmp_path / packing, llama, make_groups(8, 4), epochs=0.5, packing=packing
        )
        train(run_dir, StopSignal())
        training = json.loads((run_dir.output / "report.json").read_text())["training"]
        assert (training["packed"], training["attention"]) == (packed, "pieces")
        assert training["micro_batch_size"] == 4


def test_the_token_limit_follows_the_setting_and_shrinks_after_out_of_memory(llama):
    config = RewardConfig(base_model=str(llama), micro_batch_size=8, tokens_at_once=1000)
    steps = step_collator(config, Collator(0), 8)
    assert (steps.most, steps.max_tokens) == (8, 1000)
    assert step_collator(config, Collator(0), 2).max_tokens == 250
    unlimited = step_collator(RewardConfig(base_model=str(llama)), Collator(0), 4)
    assert (unlimited.most, unlimited.max_tokens) == (4, None)
