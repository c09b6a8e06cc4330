"""Samples of a policy before, during and after its training: drawing, scoring, and their figures.

Methods that learn from the model's own samples share them. Samples, scores and figures are files in
the run directory of a part, so a stopped run does not repeat them.

Legend: K responses of a prompt.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pyarrow as pa
import torch

from finetune.engines.sampled_text import Prompt, read_rows, write_rows
from finetune.evaluation.rounds import Samples, by_prompt, round_figures
from finetune.report import RoundFigures
from finetune.settings import SampledSettings, SamplingConfig
from finetune.training.fitting.reference import reference_logps
from finetune.training.models.language_model import device
from finetune.training.sampling.engines import make_engine
from finetune.training.sampling.from_policy import sampling_from
from finetune.training.sampling.requests import plan, report_plan
from finetune.training.sampling.watching import SampleAnswers
from finetune.training.train import Setup
from recipes.errors import RecipeError
from recipes.layout.collate import Collator
from recipes.layout.families import autocast, precision
from recipes.layout.forward import score_all
from recipes.machine import processes
from recipes.machine.memory import free_memory, is_out_of_memory
from recipes.models import quantization
from recipes.models.adapter import restore, trained_weights
from recipes.preferences.groups import Group, PreferenceError, read_folder
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from recipes.training import checkpoints
from recipes.training.parts import Part
from reward.training.score import Scorer

PROMPTS_AT_ONCE = 64
"""Prompts scored between two checks of the stop signal."""
LEAST_TOKENS = 64
"""Tokens per forward pass of the reward model below which running out of memory ends the run."""
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

Messages = Mapping[str, list[dict[str, str]]]
"""The chats of prompts by prompt id."""


def refuse_several_processes() -> None:
    if processes.count() > 1:
        raise RecipeError("Sampling uses one GPU. Start this run in one process.")


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


def prompts_of_round(
    prompts: list[Prompt], number: int, count: int | None, seed: int
) -> list[Prompt]:
    """Return the prompts of a round: all, or the next `count` of a random order that repeats."""
    if count is None or count >= len(prompts):
        return prompts
    order = np.random.default_rng(seed).permutation(len(prompts))
    start = (number - 1) * count
    return [prompts[order[(start + index) % len(prompts)]] for index in range(count)]


@dataclass
class SampledRun:
    """A run whose model learns from its own samples. `held_out` are the groups of the report."""

    run_dir: RunDir
    setup: Setup
    prompts: list[Prompt]
    held_out: list[Group]
    stop: StopSignal
    sent: set[str] = field(default_factory=set)
    """Messages of parts that the log of the run has already."""

    def __post_init__(self) -> None:
        self.method, self.policy, self.chat = self.setup.method, self.setup.policy, self.setup.chat
        self.settings = cast(SampledSettings, self.method.config)
        self.messages = {prompt.prompt_id: prompt.messages for prompt in self.prompts}
        self.reference = trained_weights(self.policy)
        watched = [Prompt(group.group_id, group.prompt) for group in self.held_out] or self.prompts
        self.answers = SampleAnswers(
            self.run_dir, self.policy, self.chat, self.method.config, watched
        )
        if not quantization.is_quantized(self.policy.inner):
            self.policy.to(device())

    def part(self, name: str, title: str) -> Part:
        part = Part(self.run_dir, name, title, self.sent)
        part.checkpoints.mkdir(parents=True, exist_ok=True)
        return part

    # --- samples ----------------------------------------------------------------------------------

    def samples(self, part: Part, prompts: list[Prompt], sampling: SamplingConfig) -> Samples:
        """Return scored samples of the policy as it is now, or those that the part has already."""
        path = part.checkpoints / "samples.parquet"
        checkpoints.delete_if_damaged(part, path)
        if not path.exists():
            samples = self.score(part, self.sample(part, prompts, sampling))
            with checkpoints.sealed(path) as draft:
                write_rows(draft, samples, SAMPLES)
        return read_rows(path)

    def sample(self, part: Part, prompts: list[Prompt], sampling: SamplingConfig) -> Samples:
        part.stage("Sampling responses")
        requests, left_out = plan(prompts, self.chat, self.policy.config, sampling)
        report_plan(part, requests, left_out)
        free_memory()  # of the training before it
        with sampling_from(self.policy) as model:
            engine = make_engine(self.settings.engine, model, self.chat, sampling)
            answers = engine.sample(requests, run_dir=part, name="responses", stop=self.stop)
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
        free_memory()  # of the sampling before it
        scorer = RewardScores(self.settings.reward_model, self.messages)
        scores = scorer.of(texts, self.stop.check)
        del scorer
        free_memory()
        return [{**row, "score": scores[row["prompt_id"], row["response"]]} for row in samples]

    # --- figures ----------------------------------------------------------------------------------

    def figures_of(self, part: Part, samples: Samples) -> RoundFigures:
        """Return the figures of samples. They are stored, because training changes the policy."""
        path = part.checkpoints / "figures.json"
        checkpoints.delete_if_damaged(part, path)
        if not path.exists():
            figures = round_figures(samples, self.log_ratios(part, samples), self.settings.seed)
            with checkpoints.sealed(path) as draft:
                draft.write_text(json.dumps(figures))
        return self.stored_figures(part)

    @staticmethod
    def stored_figures(part: Part) -> RoundFigures:
        return json.loads((part.checkpoints / "figures.json").read_text())

    def log_ratios(self, part: Part, samples: Samples) -> dict[str, list[tuple[float, int]]]:
        """Return log π - log π_ref and the number of copies of each different sample, by prompt.

        π is the policy now. Samples that are too long with their prompt are left out. Before training,
        all log-ratios are 0, so there is no forward pass.
        """
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
        if self.is_reference():
            zeros = [np.zeros(len(group.responses)) for group in groups]
            now, reference = zeros, zeros
        else:
            part.stage("Comparing the model with the reference")
            now, reference = self.logps(part, groups)
        return {
            prompt: [(float(a - b), n) for a, b, n in zip(*rows, strict=True)]
            for prompt, *rows in zip(prompts, now, reference, counts, strict=True)
        }

    def is_reference(self) -> bool:
        """Return whether the policy has the weights of the reference, as before training."""
        weights = trained_weights(self.policy)
        return all(torch.equal(weights[name], value) for name, value in self.reference.items())

    def logps(
        self, part: Part, groups: Sequence[TokenGroup]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return log π and log π_ref of the groups' responses, (K,) each. π is the policy now."""
        policy, adapter = self.policy, self.settings.adapter
        collator = Collator(self.setup.tokenizer.pad_token_id, "plain", targets=True)
        current = trained_weights(policy)
        kind = precision(policy)
        with autocast(policy.device, kind):
            now = [row[:, 0] for row in score_all(policy, groups, collator, self.stop)]
        restore(policy, self.reference)
        # In a new context, because autocast keeps the weights that it has converted until the context
        # ends, so the weights of the reference would have no effect.
        with autocast(policy.device, kind):
            reference, _ = reference_logps(part, policy, adapter, groups, collator, self.stop)
        restore(policy, current)
        return now, reference


# --- the reward model -----------------------------------------------------------------------------


class RewardScores:
    """The scores of samples by a reward model in memory."""

    def __init__(self, folder: str, messages: Messages):
        self.scorer = Scorer(folder)
        self.messages = messages

    def of(
        self, texts: Sequence[tuple[str, list[str]]], check: Callable[[], None] = lambda: None
    ) -> dict[tuple[str, str], float | None]:
        """Return the scores of responses, by prompt id and text. `texts` has the responses by prompt id.

        The score of a response that is too long for the model is None. Calls `check` between passes.
        Raises RecipeError if the model fails, or if a score is not a finite number.
        """
        scores: dict[tuple[str, str], float | None] = {}
        for start in range(0, len(texts), PROMPTS_AT_ONCE):
            check()
            some = texts[start : start + PROMPTS_AT_ONCE]
            values = self._score([(self.messages[prompt], responses) for prompt, responses in some])
            for (prompt, responses), row in zip(some, values, strict=True):
                for text, value in zip(responses, row.tolist(), strict=True):
                    scores[prompt, text] = self._checked(prompt, text, value)
        return scores

    def _score(
        self, conversations: list[tuple[list[dict[str, str]], list[str]]]
    ) -> list[np.ndarray]:
        """Return the scores, with smaller forward passes if memory runs out."""
        while True:
            try:
                return self.scorer.score(conversations)
            except (RuntimeError, MemoryError, IndexError, ValueError) as error:
                if not is_out_of_memory(error):
                    raise RecipeError(
                        f"The reward model failed while it scored samples ({type(error).__name__}: "
                        f"{str(error)[:200]}). Check it with manage.py score_responses, or choose another."
                    ) from error
            if self.scorer.max_tokens < 2 * LEAST_TOKENS:
                raise RecipeError(
                    "Out of memory while the reward model scored samples, even with "
                    f"{self.scorer.max_tokens} tokens at a time. Choose a smaller model."
                )
            self.scorer.max_tokens //= 2
            free_memory()

    def _checked(self, prompt: str, text: str, score: float) -> float | None:
        if np.isfinite(score):
            return score
        if np.isnan(score) and not self.scorer.can_read(self.messages[prompt], text):
            return None
        raise RecipeError(
            f"The reward model gave a response to prompt {prompt} the score {score}, which is not a "
            "finite number. Its weights may be damaged: choose another reward model, or train it again."
        )
