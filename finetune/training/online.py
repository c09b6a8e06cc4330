"""Fine-tune a LoRA adapter on the model's own samples, which a reward model ranks, in rounds.

    python -m finetune.training.online RUN_DIR

RUN_DIR is that of finetune/training/train.py; the settings also name the folder of a reward model.
Only the prompts of the train split are used. The held-out prompts keep the rankings of people, for
the report. A round:

1. The current model samples K responses to each prompt.
2. The reward model scores them. The scores, with ties within a margin, are a ranking.
3. The method learns from the rankings. The reference is the original model in all rounds.

Each round has a run directory parts/round-N: batches of samples, then samples.parquet with the
scores, then checkpoints of the training, and finally weights.safetensors. A stopped run continues
after the last complete file, and gives the same weights as an uninterrupted one.

Left out, and why:
- several GPUs: sampling uses one
- updates of the sampling model within a round: more rounds of fewer prompts have the same effect
- training on the sampled tokens: the text is tokenized again, as for serving

Legend: K responses of a prompt.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from finetune.engines.sampled_text import Prompt, read_rows, write_rows
from finetune.evaluation.rounds import (
    Samples,
    by_prompt,
    curve_point,
    round_figures,
    score_change,
    sentence,
)
from finetune.report import RoundFigures, SampledReport
from finetune.settings import SampledSettings
from finetune.training.fitting.reference import ReferenceCache, cache_key, reference_logps
from finetune.training.fitting.trainer import Fitted, fit
from finetune.training.models.language_model import device
from finetune.training.models.policy import PolicyModel
from finetune.training.sampling.batches import plan, report_plan, sample_all
from finetune.training.train import Setup, publish_run, report_data, report_of, set_up
from recipes.errors import RecipeError
from recipes.layout import attention
from recipes.layout.collate import Collator
from recipes.layout.families import precision
from recipes.layout.forward import score_all
from recipes.machine import processes
from recipes.machine.memory import free_memory
from recipes.models import quantization
from recipes.models.adapter import restore, trained_weights
from recipes.preferences.groups import (
    RESPONSES_CUT_OFF,
    Group,
    Judgment,
    PreferenceError,
    read_folder,
)
from recipes.preferences.tokens import Prepared, TokenGroup, no_training_data, prepare
from recipes.rundir import RunDir
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training import checkpoints
from recipes.training.parts import Part
from reward.evaluation.schema import Figure
from reward.training.score import Scorer

REVIEWER = "reward model"
PROMPTS_AT_ONCE = 64
"""Prompts scored between two checks of the stop signal."""
SAMPLES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("sample", pa.int64()),
        ("seed", pa.int64()),
        ("response", pa.string()),
        ("tokens", pa.int64()),
        ("truncated", pa.bool_()),
        ("score", pa.float64()),
    ]
)
"""A sample per row. `score` is null for a response that is too long for the reward model."""


def online(run_dir: RunDir, stop: StopSignal) -> None:
    if processes.count() > 1:
        raise RecipeError("Sampling uses one GPU. Start this run in one process.")
    setup = set_up(run_dir)
    run_dir.stage("Reading the data")
    prompts, held_out = read_data(run_dir)
    rounds = Rounds(run_dir, setup, prompts, held_out, stop)
    fitted, prepared = rounds.train()
    after, change = rounds.measure()
    report: SampledReport = {
        **report_of(run_dir, setup, fitted, prepared),
        "rounds": rounds.figures,
        "after": after,
        "score_change": change,
    }
    publish_run(run_dir, setup, report, "score_change")


def read_data(run_dir: RunDir) -> tuple[list[Prompt], list[Group]]:
    """Return the training prompts and the held-out groups. Raises RecipeError without prompts."""
    try:
        groups = list(read_folder(run_dir.data))
    except PreferenceError as error:
        raise RecipeError(str(error)) from error
    prompts = [Prompt(g.group_id, g.prompt) for g in groups if g.split == "train"]
    if not prompts:
        raise RecipeError(f"There is no prompt in the train split of {run_dir.data}.")
    return prompts, [group for group in groups if group.split == "test"]


@dataclass
class Rounds:
    """The rounds of a run. `figures` has one entry per round that has begun."""

    run_dir: RunDir
    setup: Setup
    prompts: list[Prompt]
    held_out: list[Group]
    stop: StopSignal
    figures: list[RoundFigures] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.method, self.policy, self.chat = self.setup.method, self.setup.policy, self.setup.chat
        self.config = cast(SampledSettings, self.method.config)
        self.messages = {prompt.prompt_id: prompt.messages for prompt in self.prompts}
        self.reference = trained_weights(self.policy)
        self.sent: set[str] = set()
        if not quantization.is_quantized(self.policy.inner):
            self.policy.to(device())

    def train(self) -> tuple[Fitted, Prepared]:
        """Run all incomplete rounds, and return the training and the data of the last round.

        The last round has no file of weights: its training resumes from its own last checkpoint.
        """
        total = self.config.number_of_rounds
        for number in range(1, total):
            part = self.part(f"round-{number}", f"Round {number} of {total}")
            weights = part.path / "weights.safetensors"
            checkpoints.delete_if_damaged(part, weights)
            if not weights.exists():
                self.round(part, number)
                with checkpoints.sealed(weights) as draft:
                    save_file(trained_weights(self.policy), draft)
            else:
                self.figures.append(self.stored_figures(part))
                restore(self.policy, load_file(weights))
            for path in part.checkpoints.glob("checkpoint-*"):
                shutil.rmtree(path)
        return self.round(self.part(f"round-{total}", f"Round {total} of {total}"), total)

    def part(self, name: str, title: str) -> Part:
        part = Part(self.run_dir, name, title, self.sent)
        part.checkpoints.mkdir(parents=True, exist_ok=True)
        return part

    def round(self, part: Part, number: int) -> tuple[Fitted, Prepared]:
        """Sample, score and learn. Expects the policy of the previous round."""
        samples = self.samples(part, number)
        figures = self.figures_of(part, samples)
        self.figures.append(figures)
        self.run_dir.message(f"{part.title}: {sentence(figures)}")
        self.run_dir.emit(
            "progress",
            step=number - 1,
            total=self.config.number_of_rounds,
            epoch=float((number - 1) * self.config.epochs),
            metrics=curve_point(figures),
        )
        prepared = self.prepare(part, samples)
        report_data(part, self.method, prepared, self.setup.limit)
        method, policy, config = self.method, self.policy, self.config
        fitted = fit(
            part, config, method, policy, self.setup.tokenizer, prepared, self.stop, self.reference
        )
        return fitted, prepared

    # --- samples ----------------------------------------------------------------------------------

    def samples(self, part: Part, number: int) -> Samples:
        """Return the scored samples of a round, from the file if it exists."""
        path = part.checkpoints / "samples.parquet"
        checkpoints.delete_if_damaged(part, path)
        if not path.exists():
            samples = self.score(part, self.sample(part, number))
            with checkpoints.sealed(path) as draft:
                write_rows(draft, samples, SAMPLES)
        return read_rows(path)

    def sample(self, part: Part, number: int) -> Samples:
        part.stage("Sampling responses")
        sampling = self.config.sampling_of_round(number)
        prompts = prompts_of_round(
            self.prompts, number, self.config.prompts_per_round, self.config.seed
        )
        requests, left_out = plan(prompts, self.chat, self.policy.config, sampling)
        report_plan(part, requests, left_out)
        with sampling_from(self.policy) as model:
            answers = sample_all(
                model,
                self.chat,
                requests,
                sampling,
                run_dir=part,
                name="responses",
                stop=self.stop,
            )
        rows = [
            {
                "prompt_id": answer.prompt_id,
                "sample": answer.sample,
                "seed": answer.seed,
                "response": answer.text,
                "tokens": answer.tokens,
                "truncated": answer.truncated,
            }
            for answer in answers.values()
        ]
        order = {prompt.prompt_id: index for index, prompt in enumerate(prompts)}
        return sorted(rows, key=lambda row: (order[row["prompt_id"]], row["sample"]))

    def score(self, part: Part, samples: Samples) -> Samples:
        """Return the samples with the reward model's scores, which are equal for equal texts."""
        part.stage("Scoring the responses with the reward model")
        texts = [
            (prompt, list(dict.fromkeys(row["response"] for row in rows)))
            for prompt, rows in by_prompt(samples).items()
        ]
        scorer = Scorer(self.config.reward_model)
        scores: dict[tuple[str, str], float] = {}
        for start in range(0, len(texts), PROMPTS_AT_ONCE):
            self.stop.check()
            some = texts[start : start + PROMPTS_AT_ONCE]
            values = scorer.score(
                [(self.messages[prompt], responses) for prompt, responses in some]
            )
            for (prompt, responses), row in zip(some, values, strict=True):
                pairs = zip(responses, row, strict=True)
                scores |= {(prompt, text): float(v) for text, v in pairs if not np.isnan(v)}
        del scorer
        free_memory()
        return [
            {**row, "score": scores.get((row["prompt_id"], row["response"]))} for row in samples
        ]

    # --- data -------------------------------------------------------------------------------------

    def prepare(self, part: Part, samples: Samples) -> Prepared:
        """Return the ranked samples as the train split, and the held-out prompts of the run."""
        groups = [
            rank_group(prompt, self.messages[prompt], rows, self.config.tie_margin)
            for prompt, rows in by_prompt(samples).items()
        ]
        method = self.method
        prepared = prepare(
            chain(groups, self.held_out),
            self.chat,
            self.setup.limit,
            method.evidence,
            method.objection,
        )
        if not prepared.tokens["train"]:
            raise no_training_data(part, prepared, method.lacking)
        method.prepare(prepared)
        return prepared

    # --- figures ----------------------------------------------------------------------------------

    def measure(self) -> tuple[RoundFigures, Figure]:
        """Return the figures of the trained model's samples, and the change of their score.

        It answers the prompts of the first round with the same seeds.
        """
        part = self.part("after", "After training")
        before = self.samples(self.part("round-1", "Round 1"), 1)
        after = self.samples(part, 1)
        figures = self.figures_of(part, after)
        self.run_dir.message(f"{part.title}: {sentence(figures)}")
        total = self.config.number_of_rounds
        self.run_dir.emit(
            "progress",
            step=total,
            total=total,
            epoch=float(total * self.config.epochs),
            metrics=curve_point(figures),
        )
        return figures, score_change(before, after, self.config.seed)

    def figures_of(self, part: Part, samples: Samples) -> RoundFigures:
        """Return the figures of a round's samples. They are stored, because later rounds change the policy."""
        path = part.checkpoints / "figures.json"
        checkpoints.delete_if_damaged(part, path)
        if not path.exists():
            figures = round_figures(samples, self.log_ratios(part, samples), self.config.seed)
            with checkpoints.sealed(path) as draft:
                draft.write_text(json.dumps(figures))
        return self.stored_figures(part)

    @staticmethod
    def stored_figures(part: Part) -> RoundFigures:
        return json.loads((part.checkpoints / "figures.json").read_text())

    def log_ratios(self, part: Part, samples: Samples) -> dict[str, list[tuple[float, int]]]:
        """Return log π - log π_ref and the number of copies of each different sample, by prompt.

        π is the policy now. Samples that are too long with their prompt are left out.
        """
        part.stage("Comparing the model with the reference")
        prompts, groups, counts = [], [], []
        for prompt, rows in by_prompt(samples).items():
            number = Counter(row["response"] for row in rows)
            cut_off = {row["response"]: row["truncated"] for row in rows}
            encoded = self.chat.read(self.messages[prompt], list(number), list(cut_off.values()))
            fitting = [
                (ids, count)
                for ids, count in zip(encoded.responses, number.values(), strict=True)
                if 0 < len(ids) <= self.setup.limit - len(encoded.prompt)
            ]
            if fitting:
                responses = [ids for ids, _ in fitting]
                wins = np.zeros((len(fitting),) * 2, dtype=np.float32)
                prompts.append(prompt)
                groups.append(TokenGroup(encoded.prompt, responses, wins))
                counts.append([count for _, count in fitting])
        now, reference = self.logps(part, groups)
        return {
            prompt: [(float(a - b), n) for a, b, n in zip(*rows, strict=True)]
            for prompt, *rows in zip(prompts, now, reference, counts, strict=True)
        }

    def logps(
        self, part: Part, groups: Sequence[TokenGroup]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return log π and log π_ref of the groups' responses, (K,) each. π is the policy now."""
        policy, config = self.policy, self.config
        collator = Collator(self.setup.tokenizer.pad_token_id, "plain", targets=True)
        key = cache_key(policy, config.adapter, str(policy.inner.dtype))
        kind = precision(policy)
        current = trained_weights(policy)
        with torch.autocast(policy.device.type, kind, enabled=kind != torch.float32):
            now = [row[:, 0] for row in score_all(policy, groups, collator, self.stop)]
            restore(policy, self.reference)
            reference, _ = reference_logps(
                policy, groups, collator, ReferenceCache(part, key), self.stop
            )
        restore(policy, current)
        return now, reference


@contextmanager
def sampling_from(policy: PolicyModel) -> Iterator[Any]:
    """Yield the language model with its adapter, ready to sample.

    It has ordinary attention, no published sampling defaults, and no dropout.
    """
    model, inner = policy.ordinary, policy.inner
    own, training = inner.generation_config, model.training
    way = inner.config._attn_implementation
    if policy.attends != attention.DENSE:
        inner.set_attn_implementation("sdpa")
    inner.generation_config = GenerationConfig(eos_token_id=own.eos_token_id)
    model.eval()
    try:
        yield model
    finally:
        inner.generation_config = own
        if policy.attends != attention.DENSE:
            inner.set_attn_implementation(way)
        model.train(training)


# --- prompts and rankings -------------------------------------------------------------------------


def prompts_of_round(
    prompts: list[Prompt], number: int, count: int | None, seed: int
) -> list[Prompt]:
    """Return the prompts of a round: all, or the next `count` of a random order that repeats."""
    if count is None or count >= len(prompts):
        return prompts
    order = np.random.default_rng(seed).permutation(len(prompts))
    start = (number - 1) * count
    return [prompts[order[(start + index) % len(prompts)]] for index in range(count)]


def rank_group(
    prompt_id: str, messages: list[dict[str, str]], rows: Samples, margin: float
) -> Group:
    """Return the different samples with a score, ranked by it.

    A response that was sampled several times is one response: it ties with itself.
    """
    different: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["score"] is not None:
            different.setdefault(row["response"], row)
    ids = list(range(len(different)))
    scores = [row["score"] for row in different.values()]
    return Group(
        prompt_id,
        messages,
        ids,
        list(different),
        [Judgment(REVIEWER, tiers_of(scores, margin))],
        meta={RESPONSES_CUT_OFF: [row["truncated"] for row in different.values()]},
    )


def tiers_of(scores: Sequence[float], margin: float) -> list[list[int]]:
    """Return the indices in tiers, best first. A tier spans at most `margin` below its best score."""
    tiers: list[list[int]] = []
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        if tiers and scores[tiers[-1][0]] - scores[index] <= margin:
            tiers[-1].append(index)
        else:
            tiers.append([index])
    return tiers


if __name__ == "__main__":
    sys.exit(run_recipe(online, __doc__ or ""))
