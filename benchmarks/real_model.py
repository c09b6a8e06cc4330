"""Every fine-tuning method on a real language model and on people's rankings.

The model is a folder with weights, a tokenizer and a chat template. The rankings are files in the
formats of the import, such as Tiebreak JSONL. One of three prompts is held out. The benchmark

1. trains a reward model on the training prompts
2. trains an adapter with each method, as the command `python -m PROGRAM RUN_DIR` does
3. samples answers of the original and of the tuned models to the held-out prompts, with the same random
   numbers, and scores them with the reward model
4. takes optimizer steps with our trainers and with those of TRL in turns, on the same rankings

All runs have one prompt per forward pass and recompute activations, which takes the least memory.
KTO needs an unacceptable line. If a ranking has none, the line is drawn below its better half, because
the files do not say which responses are acceptable.

    python -m benchmarks.real_model --model FOLDER --data FILE [FILE ...]
    python -m benchmarks.real_model … --methods dpo sft --set dpo.learning_rate=1e-4

Run directories, answers and figures are stored in `--folder`, so the same command continues after an
interruption. Remove the folder of a run to repeat it. Progress on stderr; the last line of stdout is one
JSON object. It contains figures, and neither text of the model nor of the data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.support.accelerator import ROOT, commit, hardware
from benchmarks.support.real_model.answers import Answers, compare, stored_answers
from benchmarks.support.real_model.data import Rankings, read_rankings, with_lines
from benchmarks.support.real_model.sampled_speed import compare_sampled_speed
from benchmarks.support.real_model.speed import TRAINERS, compare_speed
from finetune.methods.method import Method, PolicyGradientMethod, all_methods, method_named
from finetune.settings import SamplingConfig
from finetune.training.models.language_model import load_tokenizer
from recipes.preferences.groups import Group, write_groups
from recipes.rundir import RunDir, versions, write_json
from recipes.runner import quiet_libraries
from reward.training.score import Scorer

MEASURED = ("benchmarks/real_model.py", "benchmarks/support", "finetune", "recipes", "reward")
COMMON = {
    "batch_size": 4, "micro_batch_size": 1, "lora_r": 8, "lora_alpha": 16, "max_length": 320,
    "gradient_checkpointing": "on", "evaluations": 0, "checkpoint_steps": 1_000_000,
}  # fmt: skip
REWARD = {"batch_size": 8, "micro_batch_size": 1, "epochs": 2, "learning_rate": 4e-4}
STEPS_OF_SAMPLES = {"learning_rate": 1e-3, "samples_per_prompt": 4, "steps": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "grpo": STEPS_OF_SAMPLES,
    "online": {"learning_rate": 1e-3, "samples_per_prompt": 4, "rounds": 2, "epochs": 2},
    "best_of_n": {"learning_rate": 1e-3, "samples_per_prompt": 6, "epochs": 2},
    "kto": {"learning_rate": 4e-4, "desirable_weight": 1.4},
    "rloo": STEPS_OF_SAMPLES,
    "dpo": {"learning_rate": 4e-4},
    "sft": {"learning_rate": 3e-4},
}
"""The settings of each method that differ from its defaults and from COMMON."""
PROMPTS = {"dpo": 64, "kto": 64, "sft": 80, "best_of_n": 16, "online": 12, "grpo": 12, "rloo": 12}
"""The number of training prompts of each method."""
HELD_OUT_OF_SAMPLED = 12
"""The number of held-out prompts with rankings for methods that learn from samples. They do not learn from
rankings, so only their likelihood is of interest. Their answers are compared on all held-out prompts."""
COMPARED = (*TRAINERS, "grpo", "rloo")
"""The methods for which TRL has a trainer."""
ANSWERS_SEED = 1_000_000
COMMIT = "commit.json"
"""The file in a run directory with the commit at which the run began."""


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    quiet_libraries()
    torch.set_num_threads(options.threads)
    measured = commit(*MEASURED)  # first, because files may change during the run
    study = Study(options)
    cases: list[dict[str, Any]] = [study.reward_case()]
    cases += [study.method_case(method_named(name)) for name in options.methods]
    cases += [study.speed_case(name) for name in options.speed]
    result = {
        "name": "real_model",
        "commit": measured,
        "hardware": hardware("cpu"),
        "versions": versions(),
        "model": options.model.name,
        "data": study.account(),
        "cases": cases,
    }
    print(json.dumps(result, allow_nan=False))
    return 0


class Study:
    """The rankings, the reward model and the answers of the original model, made when needed."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.folder: Path = options.folder
        self.model: Path = options.model.resolve()

    @cached_property
    def rankings(self) -> Rankings:
        tokenizer = load_tokenizer(str(self.model))
        return read_rankings(
            self.options.data,
            lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
            longest_prompt=self.options.longest_prompt,
            longest_response=self.options.longest_response,
        )

    def account(self) -> dict[str, Any]:
        counts = {
            split: {
                "prompts": len(self.rankings.of(split)),
                "responses": sum(len(group.responses) for group in self.rankings.of(split)),
            }
            for split in ("train", "test")
        }
        return {**counts, "left_out": dict(self.rankings.left_out)}

    # --- runs -------------------------------------------------------------------------------------

    def run(
        self, name: str, program: str, config: dict[str, Any], groups: Sequence[Group]
    ) -> RunDir:
        """Run a program in its own process, unless its output exists. Exits if it fails."""
        run_dir = RunDir.create(self.folder / name, {"kind": name, "config": config})
        if not (run_dir.output / "report.json").exists():
            say(f"{name}: {config}")
            write_json(run_dir.path / COMMIT, commit(*MEASURED))
            write_groups(run_dir.data / "preferences.parquet", groups)
            threads = str(self.options.threads)
            subprocess.run(
                [sys.executable, "-m", program, str(run_dir.path)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": threads},
                check=True,
                stdout=subprocess.DEVNULL,
            )
        return run_dir

    @cached_property
    def reward_run(self) -> RunDir:
        config = {**REWARD, "base_model": str(self.model), **self.options.set.get("reward", {})}
        return self.run("reward", "reward.training.train", config, self.rankings.groups)

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.reward_run.output)

    def config_of(self, method: type[Method]) -> dict[str, Any]:
        config = {**COMMON, **SETTINGS[method.name], "model": str(self.model)}
        config["dtype"] = self.options.dtype
        if method.reward_model:
            config |= {
                "reward_model": str(self.reward_run.output),
                "max_new_tokens": self.options.longest_answer,
            }
        return config | self.options.set.get(method.name, {})

    def groups_of(self, method: type[Method]) -> list[Group]:
        train, test = self.rankings.of("train"), self.rankings.of("test")
        count = self.options.prompts or PROMPTS[method.name]
        groups = [*train[:count], *test[: HELD_OUT_OF_SAMPLED if method.reward_model else None]]
        return [with_lines(group) for group in groups] if method.name == "kto" else groups

    # --- answers ----------------------------------------------------------------------------------

    def answers(self, name: str, adapter: Path | None) -> Answers:
        config = SamplingConfig(
            samples_per_prompt=self.options.answers,
            top_p=1.0,
            max_new_tokens=self.options.longest_answer,
            seed=ANSWERS_SEED,
            dtype=self.options.dtype,
        )
        file = self.folder / "answers" / f"{name}.json"
        test = self.rankings.of("test")
        return stored_answers(file, self.model, adapter, test, self.scorer, config)

    # --- cases ------------------------------------------------------------------------------------

    def reward_case(self) -> dict[str, Any]:
        report = report_of(self.reward_run)
        names = ("accuracy", "longer_is_better", "accuracy_limit", "data")
        return {
            "part": "reward",
            **{name: report[name] for name in names},
            **training_of(self.reward_run, report),
        }

    def method_case(self, method: type[Method]) -> dict[str, Any]:
        config = self.config_of(method)
        run_dir = self.run(method.name, method.program, config, self.groups_of(method))
        report = report_of(run_dir)
        before = self.answers("original", None)
        after = self.answers(method.name, run_dir.output)
        case = {
            "part": "method",
            "method": method.name,
            "settings": {k: v for k, v in report["config"].items() if k in REPORTED_SETTINGS},
            "prompts": report["prompts"],
            "accuracy": report["accuracy"],
            "longer_is_better": report["longer_is_better"],
            "held_out": report["held_out"],
            "likelihood": report["likelihood"],
            "score_change_in_training": report.get("score_change"),
            "kl_in_training": report["after"]["kl"] if "after" in report else None,
            **{f"answers_{name}": value for name, value in compare(before, after).items()},
            **training_of(run_dir, report),
        }
        say(sentence(case))
        return case

    def speed_case(self, name: str) -> dict[str, Any]:
        file = self.folder / "speed" / f"{name}.json"
        if not file.exists():
            method = method_named(name)
            run_dir = RunDir.create(
                self.folder / name, {"kind": name, "config": self.config_of(method)}
            )
            data = run_dir.data / "preferences.parquet"
            if not data.exists():
                write_groups(data, self.groups_of(method))
            file.parent.mkdir(parents=True, exist_ok=True)
            sampled = issubclass(method, PolicyGradientMethod)
            compared = compare_sampled_speed if sampled else compare_speed
            figures = compared(run_dir, self.options.turns, say)
            write_json(file, {"measured_at": commit(*MEASURED), **figures})
        return {"part": "speed", "method": name, **json.loads(file.read_text())}


REPORTED_SETTINGS = {
    "learning_rate", "epochs", "steps", "batch_size", "micro_batch_size", "samples_per_prompt",
    "prompts_per_round", "rounds", "max_new_tokens", "beta", "dtype", "lora_r",
}  # fmt: skip


def report_of(run_dir: RunDir) -> dict[str, Any]:
    return json.loads((run_dir.output / "report.json").read_text())


def training_of(run_dir: RunDir, report: dict[str, Any]) -> dict[str, Any]:
    """Return the commit, the time and the memory of a run.

    `tokens_per_s` is the median over its steps.
    """
    training = report["training"]
    file = run_dir.path / COMMIT
    events = [event for event in run_dir.events() if event["event"] == "progress"]
    rates = [event["tokens_per_s"] for event in events if event.get("tokens_per_s")]
    return {
        "measured_at": json.loads(file.read_text()) if file.exists() else None,
        "steps": training["steps"],
        "layout": training["layout"],
        "seconds": round(report["seconds"], 1),
        "training_seconds": round(training["seconds"], 1),
        "tokens_per_s": round(statistics.median(rates), 1) if rates else None,
        "peak_mb": training["memory_mb"],
    }


def sentence(case: dict[str, Any]) -> str:
    score, accuracy = case["answers_score"], case["accuracy"]["value"]
    low, high = score["interval"] or (float("nan"), float("nan"))
    return (
        f"{case['method']}: score {score['value']:+.3f} ({low:+.3f} to {high:+.3f}), accuracy "
        f"{accuracy if accuracy is None else round(accuracy, 3)}, tokens "
        f"{case['answers_tokens']['value']:+.1f}, {case['peak_mb']:.0f} MB, {case['seconds']:.0f} s"
    )


# --- the command ----------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [method.name for method in all_methods()]
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a causal language model")
    add("--data", type=Path, nargs="+", required=True, help="files with rankings")
    add("--methods", nargs="*", choices=names, default=names, metavar="METHOD", help="some methods")
    add("--speed", nargs="*", choices=COMPARED, metavar="METHOD",
        help="methods to compare with TRL (default: those of --methods that TRL has)")  # fmt: skip
    add("--folder", type=Path, default=ROOT / "var" / "real_model", help="run directories")
    add("--dtype", default="auto", help="number format of all runs (default auto)")
    add("--threads", type=int, default=1, help="threads (default 1)")
    add("--turns", type=int, default=3, help="counted turns of the comparison with TRL (default 3)")
    add("--prompts", type=int, help="training prompts of each method (default: few, see PROMPTS)")
    add("--longest-prompt", type=int, default=80, help="tokens of a prompt (default 80)")
    add("--longest-response", type=int, default=120, help="tokens of a ranked response")
    add("--longest-answer", type=int, default=32, help="tokens of a sampled response")
    add("--answers", type=int, default=2, help="answers to each held-out prompt (default 2)")
    add("--set", nargs="*", default=[], metavar="METHOD.SETTING=VALUE",
        help="other settings of a method, or of the reward model (reward.epochs=1)")  # fmt: skip
    options = parser.parse_args(argv)
    if options.speed is None:
        options.speed = [name for name in options.methods if name in COMPARED]
    try:
        options.set = settings_of(options.set, [*names, "reward"])
    except ValueError as error:
        parser.error(str(error))
    return options


def settings_of(words: Sequence[str], runs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings by method. Raises ValueError if a word is not METHOD.SETTING=VALUE."""
    settings: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        run, dot, setting = name.partition(".")
        if not (equals and dot and setting) or run not in runs:
            raise ValueError(f"{word} is not METHOD.SETTING=VALUE with one of {', '.join(runs)}.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        settings.setdefault(run, {})[setting] = value
    return settings


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
