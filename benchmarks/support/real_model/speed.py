"""The speed of our trainers and of TRL's trainers of the same method, on the same rankings.

    method   TRL trains on                              with its own reference
    dpo      all pairs of different tiers               yes
    sft      the best responses, each with its prompt   -
    kto      the labelled responses, each with its      yes
             prompt, and a mismatched response to each

TRL computes the reference in each step. We compute it once, so our time includes a pass for the
reference of each step, as in a run of one epoch. A turn is an optimizer step of each side. Both sides
have the same model, adapter and number format, and recompute activations.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainingArguments
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from benchmarks.reward_training import StepTimes, ratio_of
from benchmarks.support.accelerator import peak_mb, reset_peak
from finetune.methods.method import Method
from finetune.training.fitting.trainer import PolicyTrainer, with_reference, with_token_limit
from finetune.training.models.policy import PolicyModel
from finetune.training.train import read_data, set_up
from recipes.layout.collate import Collator, step_collator
from recipes.layout.families import autocast, precision
from recipes.layout.forward import score_all
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import RunDir

PROMPTS = 4
"""Prompts per optimizer step."""
AT_ONCE = 2
"""Rows per forward pass of TRL. KTO needs two."""


def compare_speed(run_dir: RunDir, turns: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the seconds of each counted turn, and the speed-up.

    `tokens_per_s` are tokens of the rankings: each prompt and each response counts once on both sides.
    """
    with tempfile.TemporaryDirectory() as folder:
        # `set_up` writes into a run directory, so it gets one of its own.
        own = RunDir.create(folder + "/run", run_dir.spec())
        (own.data / "preferences.parquet").symlink_to(run_dir.data / "preferences.parquet")
        setup = set_up(own)
        method, policy = setup.method, setup.policy
        prepared = read_data(own, method, setup.chat, setup.limit)
        groups = prepared.tokens["train"][:PROMPTS]
        loss = method.loss(prepared.groups["train"])
        theirs = deepcopy(policy.ordinary)
        theirs.get_base_model().set_attn_implementation("sdpa")
        contenders = {
            "trl": trl_side(method, theirs, setup.tokenizer, groups, folder),
            "ours": OurSide(method, policy, setup.tokenizer, groups, loss, folder),
        }
        for turn in range(turns + 1):
            for contender in contenders.values():
                contender.take_turn(counted=turn > 0)
            last = {name: round(side.last, 2) for name, side in contenders.items()}
            say(f"{method.name}, turn {turn}{'' if turn else ' (not counted)'}: {last} s")
    tokens = sum(group.size() for group in groups)
    seconds = {name: side.seconds for name, side in contenders.items()}
    return {
        "prompts": len(groups),
        "responses": sum(len(group.responses) for group in groups),
        "tokens": tokens,
        "tokens_per_s": round(tokens / median(seconds["ours"]), 1),
        "tokens_per_s_trl": round(tokens / median(seconds["trl"]), 1),
        "speedup_vs_trl": round(ratio_of(seconds["trl"], seconds["ours"]), 2),
        "peak_mb": contenders["ours"].peak_mb,
        "peak_mb_trl": contenders["trl"].peak_mb,
        "seconds": [round(value, 3) for value in seconds["ours"]],
        "seconds_trl": [round(value, 3) for value in seconds["trl"]],
    }


class Side:
    """A trainer that takes one optimizer step per turn. Peaks include the models of both sides."""

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.times = StepTimes("cpu")
        self.trainer.add_callback(self.times)
        self.trainer.remove_callback(PrinterCallback)
        self.seconds: list[float] = []
        self.last = self.peak_mb = 0.0

    def take_turn(self, *, counted: bool) -> None:
        self.times.seconds.clear()
        reset_peak()
        extra = self.before_step()
        self.trainer.train()
        self.peak_mb = max(self.peak_mb, peak_mb())
        self.last = self.times.seconds[-1] + extra
        if counted:
            self.seconds.append(self.last)

    def before_step(self) -> float:
        """Do the work that a step needs besides the trainer, and return its seconds of CPU time."""
        return 0.0


class OurSide(Side):
    """Our trainer, with a pass for the reference of the step."""

    def __init__(
        self,
        method: Method,
        policy: PolicyModel,
        tokenizer: Any,
        groups: list[TokenGroup],
        loss: Any,
        folder: str,
    ):
        self.policy, self.referenced = policy, []
        self.collator = Collator(tokenizer.pad_token_id, "shared", packed=True, targets=True)
        if method.trains_on_reference:
            self.referenced = [*groups, *(g.mismatched for g in groups if g.mismatched)]
            groups = with_reference(groups, self.reference())
        config = method.config
        args = TrainingArguments(
            **arguments(folder, config),
            per_device_train_batch_size=len(groups),
            remove_unused_columns=False,
            label_names=["labels"],
        )
        super().__init__(
            PolicyTrainer(
                loss=loss,
                policy=policy,
                args=args,
                train_dataset=groups,
                data_collator=step_collator(
                    with_token_limit(config), self.collator, config.micro_batch_size
                ),
            )
        )

    def reference(self) -> list[np.ndarray]:
        with autocast(self.policy.device, precision(self.policy)):
            return [rows[:, 0] for rows in score_all(self.policy, self.referenced, self.collator)]

    def before_step(self) -> float:
        began = time.process_time()
        if self.referenced:
            self.reference()
        return time.process_time() - began


def arguments(folder: str, config: Any) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": 1,
        "learning_rate": config.learning_rate,
        "train_sampling_strategy": "sequential",
        "bf16": config.dtype == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


# --- TRL ------------------------------------------------------------------------------------------


class PretokenizedDPOTrainer(DPOTrainer):
    """A DPOTrainer for rows of token ids."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class PretokenizedKTOTrainer(KTOTrainer):
    """A KTOTrainer for rows of token ids."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def trl_side(
    method: Method, model: Any, tokenizer: Any, groups: Sequence[TokenGroup], folder: str
) -> Side:
    make_rows, config_class, trainer_class, options = TRAINERS[method.name]
    rows = make_rows(groups)
    rows = rows[: len(rows) - len(rows) % AT_ONCE] if len(rows) > AT_ONCE else rows
    args = config_class(
        **arguments(folder, method.config),
        per_device_train_batch_size=AT_ONCE,
        gradient_accumulation_steps=max(1, len(rows) // AT_ONCE),
        max_length=None,
        gradient_checkpointing=False,  # make_policy turned it on in the model
        **options,
    )
    dataset = Dataset.from_list(rows)
    return Side(
        trainer_class(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
    )


def pair_rows(groups: Sequence[TokenGroup]) -> list[dict[str, Any]]:
    """Return a row for each pair of responses of which one has more wins over the other."""
    rows = []
    for group in groups:
        for i, j in combinations(range(len(group.responses)), 2):
            lead = group.wins[i, j] - group.wins[j, i]
            better, worse = (i, j) if lead > 0 else (j, i)
            if lead:
                rows.append(
                    {
                        "prompt_ids": group.prompt.tolist(),
                        "chosen_ids": group.responses[better].tolist(),
                        "rejected_ids": group.responses[worse].tolist(),
                    }
                )
    return rows


def completion_rows(groups: Sequence[TokenGroup]) -> list[dict[str, Any]]:
    return [
        {
            "input_ids": [*group.prompt.tolist(), *response.tolist()],
            "completion_mask": [0] * len(group.prompt) + [1] * len(response),
        }
        for group in groups
        for response in group.responses
    ]


def labelled_rows(groups: Sequence[TokenGroup]) -> list[dict[str, Any]]:
    """Return a row for each labelled response, with a mismatched response of its group."""
    rows = []
    for group in groups:
        others = group.mismatched.responses if group.mismatched else group.responses
        for number, response in enumerate(group.responses):
            rows.append(
                {
                    "prompt_ids": group.prompt.tolist(),
                    "completion_ids": response.tolist(),
                    "KL_completion_ids": others[number % len(others)].tolist(),
                    "label": bool(group.signals["desirable"][number]),
                }
            )
    return rows


TRAINERS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "dpo": (pair_rows, DPOConfig, PretokenizedDPOTrainer, {}),
    "sft": (
        completion_rows,
        SFTConfig,
        SFTTrainer,
        {"completion_only_loss": True, "packing": False},
    ),
    "kto": (labelled_rows, KTOConfig, PretokenizedKTOTrainer, {}),
}
"""The rows, the classes and the options of TRL for each method."""
