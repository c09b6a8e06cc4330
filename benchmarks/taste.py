"""The effect of fine-tuning methods on answers, by a simulated taste with known true scores.

A base model of 500,000 weights answers prompts with invented words, and a rule gives each answer its
true score (benchmarks/support/taste). For each seed a new taste, prompts, answers of the base
model and noisy rankings are drawn. Each arm trains a LoRA adapter with the recipe of the product. Then
the tuned and the base model answer the same held-out prompts with the same random numbers, and the
true scores decide which answer wins.

    a. dpo against best_worst and pairs: whole rankings, the best against the worst response of each
       ranking, and all strict pairs
    b. ties_davidson and ties_half against ties_dropped, on rankings with many ties, and
       large_rao_kupper against large_dropped and against large_broken, whose ties are broken at random
    c. each method against the base model; one reward model per seed, trained on the rankings of dpo
    d. online (four rounds) against one_round, with the same samples per prompt, prompts and steps, and
       large_online against large_one_round with a better reward model

With `--ties`, arms with several values of β show modelled and dropped ties at equal divergence from the
base model (benchmarks/support/taste/divergence.py). A linear model shows the value of ties without
errors of optimization (benchmarks/support/taste/linear.py).

Arms have the same number of optimizer steps. Each step forwards about the same number of tokens with
gradients, so steps of pairs have more prompts. Learning rates are the best of GRIDS on the seeds
TUNING, which are not among the measured ones; some arms share one (CHOSEN_WITH). All other settings are
the defaults of the product, except the rank of the adapter. Arms whose name begins with large_ have
twice as many rankings, a larger β and a better reward model (LARGE).

    python -m benchmarks.taste                    10 seeds, about 25 minutes of one core
    python -m benchmarks.taste --quick            two arms and two seeds, under a minute
    python -m benchmarks.taste --tune             the learning rates, on other seeds
    python -m benchmarks.taste --ties             ties at equal divergence, about 10 minutes

Each result is stored in `--folder`, so the same command continues after an interruption. `--restart`
measures again, and `--stored` reports what is there. Progress on stderr; the last line of stdout is one
JSON object. Intervals are 95% t-intervals over the seeds.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks.support.accelerator import ROOT, commit, cpu_name
from benchmarks.support.taste.data import (
    Data,
    all_pairs,
    best_against_worst,
    ties_at_random,
    whole,
    without_ties,
)
from benchmarks.support.taste.divergence import equal_divergence_case
from benchmarks.support.taste.figures import arm_case, cases_of, svg, wins
from benchmarks.support.taste.linear import compare_linear
from benchmarks.support.taste.world import (
    LONGEST,
    Policy,
    Question,
    Taste,
    make_base,
    make_questions,
    make_taste,
    ranked,
)
from finetune.engines.engine import Sampled
from finetune.methods.method import Method, method_named
from finetune.training import online, policy_gradient, train
from recipes.preferences.groups import Group, write_groups
from recipes.preferences.tokens import prepare
from recipes.rundir import RunDir, versions
from recipes.runner import quiet_libraries
from recipes.stopping import StopSignal
from reward.training import train as reward_train
from reward.training.score import Scorer

MEASURED = (
    "benchmarks/taste.py", "benchmarks/support/taste", "finetune", "recipes", "reward",
)  # fmt: skip
K, EACH = 4, 2
"""Responses per ranking, and answers to each held-out prompt."""
STEP_TOKENS = 340
"""Tokens per optimizer step: those of 8 whole rankings."""
ANSWER_SEED = 1_000_000
"""Added to the seed for the random numbers of the answers to held-out prompts."""
FEW_TIES, MANY_TIES = 0.3, 3.0
"""Width ν of the reviewers' ties. Equal responses tie with a probability of ν / (2 + ν)."""
TUNING = (100, 101)
GRIDS = {
    "dpo": (3e-4, 6e-4, 1e-3), "online": (3e-4, 6e-4, 1e-3), "kto": (3e-4, 1e-3), "sft": (3e-3, 1e-2),
    "best_of_n": (3e-3, 1e-2), "grpo": (1e-3, 3e-3), "rloo": (1e-3, 3e-3),
    "large_dropped": (1.5e-3, 3e-3), "large_online": (1.5e-3, 3e-3), "large_one_round": (1.5e-3, 3e-3),
}  # fmt: skip
"""Learning rates that are tried on the seeds TUNING: those of the arm, or else of its method."""
SAMPLED_STEPS = 24
"""Optimizer steps of methods that sample in each step, which takes most of their time."""
COMMON = {"lora_r": 8, "lora_alpha": 16, "evaluations": 0, "checkpoint_steps": 1_000_000}
REWARD = {
    "lora_r": 8, "lora_alpha": 16, "learning_rate": 3e-3, "epochs": 4, "batch_size": 8,
    "micro_batch_size": 8, "checkpoint_steps": 1_000_000,
}  # fmt: skip
FULL_REWARD = {**REWARD, "lora_r": 0, "learning_rate": 1e-3, "epochs": 6}
"""Settings of the reward model of LARGE: all weights are trained."""

PROGRAMS = {
    "finetune.training.train": train.train,
    "finetune.training.online": online.online,
    "finetune.training.policy_gradient": policy_gradient.policy_gradient,
}
"""The function of each program that a method names."""


# --- sizes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """The steps of the base model, ranked and held-out prompts, and optimizer steps of an arm."""

    base_steps: int
    prompts: int
    held_out: int
    steps: int
    full_reward: bool = False
    """Whether the reward model is trained with FULL_REWARD."""


FULL, QUICK = Size(400, 256, 200, 64), Size(100, 64, 40, 8)
LARGE = Size(400, 512, 200, 64, full_reward=True)


# --- arms -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A method with its data and settings.

    `counted_as` is the method whose tokens per prompt a method that samples forwards.
    """

    name: str
    method: str
    data: Data = whole
    tie_width: float = FEW_TIES
    counted_as: str | None = None
    size: Size = FULL
    settings: dict[str, Any] = field(default_factory=dict)


def tied(name: str, data: Data = whole, size: Size = FULL, **settings: Any) -> Arm:
    return Arm(name, "dpo", data, MANY_TIES, size=size, settings=settings)


def sampled(name: str, method: str, counted_as: str, size: Size = FULL, **settings: Any) -> Arm:
    return Arm(name, method, counted_as=counted_as, size=size, settings=settings)


ARMS = [
    Arm("dpo", "dpo"),
    Arm("best_worst", "dpo", best_against_worst),
    Arm("pairs", "dpo", all_pairs),
    tied("ties_davidson", ties="davidson"),
    tied("ties_half", ties="half"),
    tied("ties_dropped", without_ties),
    tied("large_rao_kupper", size=LARGE, ties="rao_kupper", beta=0.3),
    tied("large_dropped", without_ties, LARGE, beta=0.3),
    tied("large_broken", ties_at_random, LARGE, beta=0.3),
    Arm("sft", "sft"),
    Arm("kto", "kto"),
    sampled("best_of_n", "best_of_n", "sft", samples_per_prompt=8, prompts_per_round=128),
    sampled("online", "online", "dpo", rounds=4, prompts_per_round=64),
    sampled("one_round", "online", "dpo", rounds=1),
    sampled("large_online", "online", "dpo", LARGE, rounds=4, prompts_per_round=128, beta=0.3),
    sampled("large_one_round", "online", "dpo", LARGE, rounds=1, beta=0.3),
    sampled("grpo", "grpo", "dpo", samples_per_prompt=4, steps=SAMPLED_STEPS),
    sampled("rloo", "rloo", "dpo", samples_per_prompt=4, steps=SAMPLED_STEPS),
]
BETAS = (0.15, 0.3, 0.6, 1.2)
"""The values of β of arms that are compared at equal divergence."""
CURVES = {
    "modelled": [tied(f"modelled_{b:g}", size=LARGE, ties="rao_kupper", beta=b) for b in BETAS],
    "half": [tied(f"half_{b:g}", size=LARGE, ties="half", beta=b) for b in BETAS],
    "dropped": [tied(f"dropped_{b:g}", without_ties, LARGE, beta=b) for b in BETAS],
}
"""Arms with several values of β, by their use of ties. They are measured with `--ties` only."""
SAME_BETA = [("b", f"modelled_{b:g}", f"dropped_{b:g}") for b in BETAS]
ALL_ARMS = [*ARMS, *(arm for arms in CURVES.values() for arm in arms)]
LEARNING_RATES = {
    "dpo": 1e-3,
    "best_worst": 6e-4,
    "pairs": 1e-3,
    "sft": 1e-2,
    "kto": 1e-3,
    "online": 1e-3,
    "one_round": 6e-4,
    "grpo": 3e-3,
    "large_dropped": 3e-3,
    "large_online": 3e-3,
    "large_one_round": 1.5e-3,
}
"""Chosen with `--tune`."""
CHOSEN_WITH = {
    "ties_davidson": "dpo", "ties_half": "dpo", "ties_dropped": "dpo", "best_of_n": "sft",
    "rloo": "grpo", "large_rao_kupper": "large_dropped",
    "large_broken": "large_dropped",
}  # fmt: skip
"""Arms that have the learning rate of another arm."""
COMPARISONS = [
    ("a", "dpo", "best_worst"),
    ("a", "dpo", "pairs"),
    ("b", "ties_davidson", "ties_dropped"),
    ("b", "ties_half", "ties_dropped"),
    ("b", "large_rao_kupper", "large_dropped"),
    ("b", "large_rao_kupper", "large_broken"),
    ("d", "online", "one_round"),
    ("d", "large_online", "large_one_round"),
]
"""Part of the study, and the two arms whose answers are compared."""


def learning_rate_of(arm: str) -> float:
    default = "large_dropped" if any(a.name == arm for a in ALL_ARMS[len(ARMS) :]) else arm
    return LEARNING_RATES[CHOSEN_WITH.get(arm, default)]


def grid_of(arm: Arm) -> tuple[float, ...]:
    return GRIDS.get(arm.name, GRIDS[arm.method])


# --- one seed -------------------------------------------------------------------------------------


@dataclass
class Trial:
    """The taste, prompts, rankings and reward model of one seed. Parts are made when needed."""

    base: Path
    folder: Path
    seed: int
    size: Size = FULL
    drawn: dict[float, list[Group]] = field(default_factory=dict)

    @cached_property
    def taste(self) -> Taste:
        return make_taste(self.rng("taste"))

    @cached_property
    def questions(self) -> list[Question]:
        return make_questions(self.rng("questions"), self.size.prompts, "train")

    @cached_property
    def held_out(self) -> list[Question]:
        return make_questions(self.rng("held out"), self.size.held_out, "test")

    @cached_property
    def policy(self) -> Policy:
        return Policy(self.base)

    @cached_property
    def answers(self) -> dict[str, list[Sampled]]:
        """Return the base model's answers to the prompts that are ranked."""
        return self.policy.answers(self.questions, K, self.seed)

    @cached_property
    def base_answers(self) -> dict[str, list[Sampled]]:
        return self.policy.answers(self.held_out, EACH, ANSWER_SEED + self.seed)

    def scores(self, answers: dict[str, list[Sampled]]) -> list[float]:
        """Return the true scores of answers to the held-out prompts."""
        return [
            self.taste.score(question, answer.text)
            for question in self.held_out
            for answer in answers[question.name]
        ]

    def rankings(self, tie_width: float) -> list[Group]:
        """Return the rankings of reviewers with this width of ties. They are drawn once."""
        if tie_width not in self.drawn:
            rng = self.rng(f"rankings {tie_width}")
            self.drawn[tie_width] = ranked(self.answers, self.questions, self.taste, tie_width, rng)
        return self.drawn[tie_width]

    def rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose.encode()])

    @cached_property
    def reward_model(self) -> Path:
        """Return the folder of the reward model, trained on the rankings with few ties."""
        settings = FULL_REWARD if self.size.full_reward else REWARD
        config = {**settings, "base_model": str(self.base), "seed": self.seed}
        path = self.folder / f"reward-{self.size.prompts}-{self.seed}"
        run_dir = RunDir.create(path, {"kind": "reward", "config": config})
        if not (run_dir.output / "report.json").exists():
            write_groups(run_dir.data / "preferences.parquet", self.rankings(FEW_TIES))
            reward_train.train(run_dir, StopSignal())
        return run_dir.output

    @cached_property
    def reward_order(self) -> float:
        """Return the share of pairs of the base model's answers that the reward model orders right."""
        scorer = Scorer(self.reward_model)
        texts = [[answer.text for answer in self.base_answers[q.name]] for q in self.held_out]
        rows = scorer.score([(q.messages, t) for q, t in zip(self.held_out, texts, strict=True)])
        agreeing = []
        for question, row, values in zip(self.held_out, texts, rows, strict=True):
            truth = [self.taste.score(question, text) for text in row]
            if truth[0] != truth[1]:
                agreeing.append(float((truth[0] > truth[1]) == (values[0] > values[1])))
        return mean(agreeing)


def measure(trial: Trial, arm: Arm, learning_rate: float) -> dict[str, Any]:
    """Train an arm, and return the figures of its answers."""
    began, method = time.process_time(), method_named(arm.method)
    with tempfile.TemporaryDirectory() as folder:
        run_dir, tokens = run_of(trial, arm, learning_rate, Path(folder) / "run")
        trained = time.process_time()
        PROGRAMS[method.program](run_dir, StopSignal())
        trained = time.process_time() - trained
        report = json.loads((run_dir.output / "report.json").read_text())
        tuned = Policy(trial.base, run_dir.output)
    answers = tuned.answers(trial.held_out, EACH, ANSWER_SEED + trial.seed)
    flat = [answer for question in trial.held_out for answer in answers[question.name]]
    return {
        "arm": arm.name,
        "seed": trial.seed,
        "learning_rate": learning_rate,
        "scores": [round(score, 4) for score in trial.scores(answers)],
        "base_scores": [round(score, 4) for score in trial.scores(trial.base_answers)],
        "kl": round(tuned.divergence(trial.policy, trial.held_out, answers), 4),
        "words": mean(len(answer.text.split()) for answer in flat),
        "truncated": mean(answer.truncated for answer in flat),
        "distinct": len({answer.text for answer in flat}) / len(flat),
        "steps": report["training"]["steps"],
        "tokens": tokens,
        "reward_order": trial.reward_order if method.reward_model else None,
        "train_seconds": round(trained, 2),
        "seconds": round(time.process_time() - began, 2),
    }


def run_of(trial: Trial, arm: Arm, learning_rate: float, path: Path) -> tuple[RunDir, int]:
    """Return the run directory of an arm, and the tokens that it forwards with gradients.

    For a method that samples, the tokens are those of the base model's answers, because its own are
    not known in advance.
    """
    method = method_named(arm.method)
    groups = arm.data(trial.rankings(arm.tie_width), trial.rng(arm.name))
    config = {
        **COMMON, **arm.settings, "model": str(trial.base), "learning_rate": learning_rate,
        "seed": trial.seed,
    }  # fmt: skip
    if method.reward_model:
        config |= {"reward_model": str(trial.reward_model), "max_new_tokens": LONGEST}
    prompts, tokens = size_of(trial, method_named(arm.counted_as or arm.method), groups)
    batch = round(STEP_TOKENS * prompts / tokens)
    rows = config.get("prompts_per_round", prompts)
    steps = config.get("steps", trial.size.steps)
    of_round = steps / config.get("rounds", 1) - 0.5  # the trainer rounds up
    config |= {
        "batch_size": batch,
        "micro_batch_size": batch,
        "epochs": of_round / ceil(rows / batch),
    }
    run_dir = RunDir.create(path, {"kind": arm.method, "config": config})
    write_groups(run_dir.data / "preferences.parquet", groups)
    return run_dir, round(steps * batch * tokens / prompts)


def size_of(trial: Trial, method: type[Method], groups: Sequence[Group]) -> tuple[int, int]:
    """Return the number of prompts that the method trains on, and their tokens."""
    instance = method(method.settings.from_dict({"model": str(trial.base)}))
    chat = trial.policy.chat
    prepared = prepare(groups, chat, 512, instance.loss_inputs, instance.objection)
    instance.prepare(prepared)
    rows = prepared.tokens["train"]
    return len(rows), sum(row.size() for row in rows)


# --- the command ----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    quiet_libraries()
    torch.set_num_threads(1)
    measured = commit(*MEASURED)  # first, because files may change during the run
    if options.restart:
        shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    base = make_base(options.folder / "base", (QUICK if options.quick else FULL).base_steps)
    order = [arm.name for arm in ALL_ARMS]
    rows = sorted(all_rows(base, options, measured), key=lambda row: order.index(row["arm"]))
    cases = tuning_cases(rows) if options.tune else cases_of(rows, [*COMPARISONS, *SAME_BETA])
    if options.ties:
        cases += [*tie_cases(rows), *linear_cases(base, options)]
    result = {
        "name": "taste",
        "commit": measured,
        "commits": sorted({row["commit"] for row in rows}),
        "hardware": {"cpu": cpu_name(), "threads": 1},
        "versions": versions(),
        "cases": cases,
    }
    if options.svg:
        options.svg.write_text(svg(cases))
    print(json.dumps(result, allow_nan=False))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [arm.name for arm in ALL_ARMS]
    parser.add_argument("--quick", action="store_true", help="two arms and two seeds")
    parser.add_argument("--tune", action="store_true", help="try the learning rates of GRIDS")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds (default 10)")
    parser.add_argument("--arms", nargs="+", choices=names, metavar="ARM", help="some arms")
    parser.add_argument("--ties", action="store_true", help="ties at equal divergence, see CURVES")
    parser.add_argument("--stored", action="store_true", help="report stored results only")
    parser.add_argument("--restart", action="store_true", help="measure all results again")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the win rates")
    parser.add_argument(
        "--folder",
        type=Path,
        help="base model, reward models and results (default var/taste, or var/taste_quick)",
    )
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds, options.arms = 2, options.arms or ["dpo", "best_worst"]
    default = ALL_ARMS[len(ARMS) :] if options.ties else ARMS
    options.arms = options.arms or [arm.name for arm in default]
    options.folder = options.folder or ROOT / "var" / ("taste_quick" if options.quick else "taste")
    return options


def all_rows(
    base: Path, options: argparse.Namespace, measured: str | None
) -> Iterator[dict[str, Any]]:
    """Yield the results of all arms and seeds. Measures and stores those that are not stored yet."""
    file = options.folder / "rows.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    stored = {key_of(row): row for row in map(json.loads, lines)}
    for seed in TUNING if options.tune else range(options.seeds):
        trials = {
            size: Trial(base, options.folder, seed, QUICK if options.quick else size)
            for size in (FULL, LARGE)
        }
        for arm in (arm for arm in ALL_ARMS if arm.name in options.arms):
            trial = trials[arm.size]
            if options.tune and arm.name in CHOSEN_WITH:
                continue
            for rate in grid_of(arm) if options.tune else [learning_rate_of(arm.name)]:
                key = {"arm": arm.name, "seed": seed, "learning_rate": rate}
                row = stored.get(key_of(key))
                if row is None and options.stored:
                    continue
                if row is None:
                    row = {"commit": measured, **measure(trial, arm, rate)}
                    with file.open("a") as results:
                        results.write(json.dumps(row) + "\n")
                say(row)
                yield row


def key_of(row: dict[str, Any]) -> tuple[str, int, float]:
    return row["arm"], row["seed"], row["learning_rate"]


def tie_cases(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a case for each way to use ties in CURVES, compared with dropping them."""
    sides: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in CURVES}
    for name, arms in CURVES.items():
        names = {arm.name for arm in arms}
        for row in rows:
            if row["arm"] in names:
                sides[name].setdefault(row["seed"], []).append(row)
    dropped = sides.pop("dropped")
    return [
        equal_divergence_case(f"{name} and dropped", side, dropped)
        for name, side in sides.items()
        if side.keys() & dropped.keys()
    ]


def linear_cases(base: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the cases of benchmarks/support/taste/linear.py, on the rankings of the arms."""
    return compare_linear(
        [
            (
                trial.taste,
                trial.rankings(MANY_TIES),
                trial.questions,
                trial.held_out,
                trial.base_answers,
            )
            for seed in range(options.seeds)
            for trial in [Trial(base, options.folder, seed, LARGE)]
        ]
    )


def tuning_cases(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a case for each arm and learning rate."""
    keys = dict.fromkeys((row["arm"], row["learning_rate"]) for row in rows)
    return [
        arm_case(arm, [row for row in rows if (row["arm"], row["learning_rate"]) == (arm, rate)])
        for arm, rate in sorted(keys)
    ]


def say(row: dict[str, Any]) -> None:
    gain = mean(row["scores"]) - mean(row["base_scores"])
    print(
        f"{row['arm']}, seed {row['seed']}, learning rate {row['learning_rate']:g}: "
        f"wins {wins(row['scores'], row['base_scores']):.1%}, score {gain:+.2f}, KL {row['kl']:.2f}, "
        f"{row['words']:.1f} words, {row['train_seconds']:.1f} of {row['seconds']:.1f} s",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
