"""The gap between a reward model's accuracy and its noise ceiling, on simulated labels.

Because reviewers are noisy, no model can be expected to agree with their held-out pairs more often
than the true scores do. That share is the noise ceiling. The recipe runs as in the product, on an
increasing number of ranked prompts, and its report is compared with the ceiling of the same labels.

    letters   the demo's letters and replies, ranked by its rule with its reviewers' noise; LoRA on the
              tiny model that ships
    words     invented words whose value depends on the asker; a Llama with random weights, fully
              trained, which knows only the rankings

    python -m benchmarks.ceiling                  every size, three seeds, about an hour on two cores
    python -m benchmarks.ceiling --quick          200 prompts of each, one seed, a minute
    python -m benchmarks.ceiling --world words    a few minutes

Progress on stderr; the last line of stdout is one JSON object with a case for each world and size.
`gap` is the ceiling minus the accuracy, averaged over the seeds.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.accelerator import commit, hardware
from demo import reviewers, rule
from demo import world as shop
from demo.build_model import SHIPPED
from recipes.preferences.groups import Group, Judgment, write_groups
from recipes.rundir import RunDir, versions
from reward.evaluation.report import agreeing_share, order_tally

MEASURED = ("benchmarks/ceiling.py", "demo", "finetune/training/tiny_model.py", "reward")
K = 4
HELD_OUT, QUICK = 1000, 200


@dataclass(frozen=True)
class Ranked:
    """Training and held-out groups, with the true scores (K,) of each group."""

    groups: list[Group]
    truth: dict[str, np.ndarray]


@dataclass(frozen=True)
class World:
    name: str
    sizes: tuple[int, ...]
    config: dict[str, Any]

    def ranked(self, prompts: int, held_out: int, seed: int) -> Ranked:
        make = {"letters": letters, "words": words}[self.name]
        return make(prompts, held_out, np.random.default_rng(seed))

    def base(self, folder: Path) -> str:
        return str(SHIPPED) if self.name == "letters" else new_model(folder / "base")


STEPS = {"batch_size": 8, "micro_batch_size": 8, "learning_rate": 3e-3}
WORLDS = [
    World("words", (500, 1000, 2000), {**STEPS, "epochs": 8, "lora_r": 0}),
    World("letters", (500, 1000, 2000), {**STEPS, "epochs": 4}),
]


# --- letters --------------------------------------------------------------------------------------


def letters(prompts: int, held_out: int, rng: np.random.Generator) -> Ranked:
    """Return letters with replies, each ranked by two of the demo's reviewers."""
    seed = int(rng.integers(2**31))
    chance = random.Random(seed)
    groups, truth = [], {}
    for number, letter in enumerate(shop.prompts(prompts + held_out, seed)):
        replies: list[str] = []
        while len(replies) < K:
            reply = shop.write_reply(chance, letter)
            if reply not in replies:
                replies.append(reply)
        ids = [number * K + k for k in range(K)]
        judgments = [
            judgment(ids, reviewers.rank(reviewer, letter.messages, replies, chance), reviewer.name)
            for reviewer in chance.sample(reviewers.CREW, 2)
        ]
        name, split = f"letter-{number}", "test" if number < held_out else "train"
        groups.append(Group(name, letter.messages, ids, replies, judgments, split))
        truth[name] = np.array([rule.score(letter.messages, reply) for reply in replies])
    return Ranked(groups, truth)


def judgment(ids: Sequence[int], ranking: reviewers.Ranking, name: str) -> Judgment:
    return Judgment(name, [[ids[index] for index in tier] for tier in ranking.tiers], ranking.cut)


# --- words ----------------------------------------------------------------------------------------

ASKERS = ("gardener", "sailor")
WORDS, REPLY_WORDS = 24, 8
GAP = 2.5
"""Standard deviation of the true scores, in units of Bradley-Terry noise."""


def vocabulary() -> list[str]:
    rng = random.Random("words")
    words: set[str] = set()
    while len(words) < WORDS:
        words.add("".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(2)))
    return sorted(words)


def words(prompts: int, held_out: int, rng: np.random.Generator) -> Ranked:
    """Return replies ranked by one reviewer, who adds up the words' values to the asker."""
    all_words = np.array(vocabulary())
    values = rng.normal(size=(len(ASKERS), WORDS)) * GAP / np.sqrt(REPLY_WORDS)
    groups, truth = [], {}
    for number in range(prompts + held_out):
        asker, indices = rng.integers(len(ASKERS)), rng.integers(WORDS, size=(K, REPLY_WORDS))
        scores = values[asker][indices].sum(axis=1)
        perceived = scores + rng.gumbel(size=K)
        ids = [number * K + k for k in range(K)]
        name, split = f"words-{number}", "test" if number < held_out else "train"
        prompt = [{"role": "user", "content": f"Words for a {ASKERS[asker]}."}]
        ranking = Judgment("r", [[ids[k]] for k in np.argsort(-perceived)])
        replies = [" ".join(line) for line in all_words[indices]]
        groups.append(Group(name, prompt, ids, replies, [ranking], split))
        truth[name] = scores
    return Ranked(groups, truth)


def new_model(folder: Path) -> str:
    """Save a Llama with random weights and a tokenizer for the words; return its folder."""
    import torch

    from finetune.training import tiny_model
    from recipes.runner import quiet_libraries

    quiet_libraries()
    chats = [[{"role": "user", "content": " ".join(["", *vocabulary(), *ASKERS])}]] * 4
    tokenizer = tiny_model.train_tokenizer(chats, vocab_size=1024)
    torch.manual_seed(0)
    tiny_model.new_model(tokenizer, hidden=64, layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# --- measuring ------------------------------------------------------------------------------------


def ceiling_of(groups: Sequence[Group], truth: dict[str, np.ndarray]) -> float | None:
    """Return the share of strict judgments on which the true scores agree; ties count half."""
    return agreeing_share([order_tally(group, truth[group.group_id]) for group in groups])


def measure(world: World, size: tuple[int, int], seed: int) -> dict[str, Any]:
    """Run the recipe once, and return its report's figures with the ceiling of the same labels."""
    ranked = world.ranked(*size, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = {**world.config, "seed": seed, "base_model": world.base(folder)}
        run_dir = RunDir.create(folder / "run", {"kind": "reward", "config": config})
        write_groups(run_dir.data / "preferences.parquet", ranked.groups)
        began = time.monotonic()
        recipe = [sys.executable, "-m", "reward.training.train", str(run_dir.path)]
        subprocess.run(recipe, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        report = json.loads((run_dir.output / "report.json").read_text())
    held_out = [group for group in ranked.groups if group.split == "test"]
    accuracy, ceiling = report["accuracy"]["value"], ceiling_of(held_out, ranked.truth)
    row = {
        "seed": seed,
        "accuracy": accuracy,
        "interval": report["accuracy"]["interval"],
        "ceiling": ceiling,
        "gap": ceiling - accuracy,
        "reviewer_agreement": report["reviewer_agreement"]["value"],
        "left_out": report["left_out"],
        "seconds": round(seconds, 1),
    }
    say(
        f"{world.name}, {size[0]} prompts, seed {seed}: {accuracy:.4f} of {ceiling:.4f}, {seconds:.0f} s"
    )
    return row


def case(world: World, size: tuple[int, int], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def mean(name: str) -> float:
        return round(statistics.mean(row[name] for row in rows), 4)

    return {
        "world": world.name,
        "prompts": size[0],
        "held_out": size[1],
        "accuracy": mean("accuracy"),
        "ceiling": mean("ceiling"),
        "gap": mean("gap"),
        "gap_range": [round(end(row["gap"] for row in rows), 4) for end in (min, max)],
        "seeds": list(rows),
    }


say = partial(print, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small size, one seed")
    names = [world.name for world in WORLDS]
    parser.add_argument(
        "--world", choices=names, action="append", help="only this world; may be repeated"
    )
    parser.add_argument(
        "--prompts", type=int, action="append", help="only this size; may be repeated"
    )
    parser.add_argument("--held-out", type=int, help="number of held-out prompts")
    parser.add_argument("--seeds", type=int, help="default 3")
    options = parser.parse_args(argv)
    measured = commit(*MEASURED)
    seeds = options.seeds or (1 if options.quick else 3)
    held_out = options.held_out or (QUICK if options.quick else HELD_OUT)
    chosen = [world for world in WORLDS if not options.world or world.name in options.world]
    cases = []
    for world in chosen:
        for prompts in options.prompts or ([QUICK] if options.quick else world.sizes):
            size = (prompts, held_out)
            cases.append(case(world, size, [measure(world, size, seed) for seed in range(seeds)]))
    result = {
        "name": "ceiling",
        "commit": measured,
        "hardware": hardware("cpu"),
        "versions": versions(),
        "config": {world.name: world.config for world in chosen},
        "cases": cases,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
