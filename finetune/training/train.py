"""Fine-tune a LoRA adapter on preferences.

Direct Preference Optimization (Rafailov et al. 2023, arXiv:2305.18290) by TRL's DPOTrainer, with
LoRA (Hu et al. 2021, arXiv:2106.09685) on the linear layers. The reference is the same model with
the adapter off. Its log-probabilities are computed before training, once per response.

Left out, and why:
- truncation: responses that are too long for the model are left out, counted and reported
- a weighted loss: TRL has none, so pairs with more evidence are shown more often (finetune/methods/resampling.py)
- dropout: the reference has none, and a policy with dropout would differ from it before any training
- training an existing adapter: merge it first (finetune/training/merge.py), then train a new one
- SFT on the chosen responses first: useful if the base was never trained to answer

Run it on any machine with a run directory. The same command resumes after a stop:

    python -m finetune.training.train RUN_DIR

RUN_DIR holds run.json, {"kind": "dpo", "config": {"model": "FOLDER or HUB NAME", …}} with the
settings of DPOSettings in finetune/settings.py, and data/*.parquet as described in
recipes/preferences/groups.py. The recipe adds events.jsonl, checkpoints/ and, at the end, output/
with adapter (safetensors), tokenizer, report.json and model card. Exit status: 0 done, 1 failed,
75 stopped on SIGTERM after a checkpoint.

Legend: K responses of a prompt.
"""

import sys
import time
from collections import Counter
from typing import Any

import numpy as np
from datasets import Dataset
from peft import LoraConfig, TaskType
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from finetune.methods.resampling import draw
from finetune.settings import DPOSettings
from finetune.training.card import model_card
from finetune.training.held_out import HeldOut
from finetune.training.language_model import (
    PolicyChat,
    check_vocabulary,
    load_model,
    load_tokenizer,
    readable_length,
)
from finetune.training.logps import group_logps
from finetune.training.trainer import PretokenizedDPOTrainer, WatchHeldOut
from recipes.errors import RecipeError
from recipes.memory import with_smaller_batches
from recipes.models.references import split_reference
from recipes.preferences.pairs import Pair, PairOptions, pairs_of
from recipes.preferences.tokens import Prepared, nothing_to_train_on, read_prepared
from recipes.publishing import publish
from recipes.rundir import RunDir
from recipes.runner import provenance, run_recipe
from recipes.stopping import StopSignal
from recipes.trainer import (
    common_arguments,
    common_callbacks,
    first_batch,
    train_to_the_end,
    training_figures,
)
from recipes.trainer_callbacks import ProgressEvents
from reward.evaluation.figures import main_figures

Pairs = dict[str, list[tuple[int, Pair]]]
"""By split: (index of the prompt in `Prepared`, pair of its responses)."""


def train(run_dir: RunDir, stop: StopSignal) -> None:
    started = time.monotonic()
    config = DPOSettings.from_dict(run_dir.spec()["config"])
    run_dir.stage("Loading the model")
    tokenizer = load_tokenizer(config.model)
    model = load_model(config.model, config.dtype)
    check_vocabulary(model, tokenizer, config.model)
    chat = PolicyChat(tokenizer, model.generation_config)
    limit = min(config.max_length, readable_length(model.config) or config.max_length)
    del model  # each attempt loads a fresh one
    prepared, pairs = read_data(run_dir, config, chat, limit)
    rows = training_rows(prepared, pairs, config)
    report_data(run_dir, prepared, pairs, limit)

    def attempt(micro_batch_size: int, accumulation: int) -> tuple[DPOTrainer, HeldOut]:
        events = ProgressEvents(run_dir)
        callbacks = common_callbacks(run_dir, events, stop)
        batch = (micro_batch_size, accumulation)
        trainer = make_trainer(run_dir, config, tokenizer, len(rows), batch, callbacks)
        run_dir.stage("Computing the reference log-probabilities, with the adapter off")
        reference = {s: base_logps(trainer, prepared, s, stop) for s in ("train", "test")}
        trainer.train_dataset = dataset(prepared, pairs["train"], rows, reference["train"])
        held_out = HeldOut(trainer, prepared, pairs["test"], reference["test"], config, stop)
        trainer.add_callback(WatchHeldOut(held_out, events, config.evaluations))
        train_to_the_end(trainer, run_dir)
        return trainer, held_out

    trainer, held_out = with_smaller_batches(
        attempt,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        run_dir=run_dir,
    )
    run_dir.stage(f"Scoring {len(prepared.tokens['test'])} held-out prompts for the report")
    report = {
        "kind": "dpo",
        "model": config.model,
        "pairs": {split: len(rows) for split, rows in pairs.items()},
        "prompts": {split: len({g for g, _ in rows}) for split, rows in pairs.items()},
        "shown": pair_counts(rows, pairs),
        "left_out": prepared.account(),
        **held_out.report(),
        "training": training_figures(trainer, limit),
        "first_batch": describe(first_batch(trainer), tokenizer),
        **provenance(run_dir, config, started=started),
    }
    publish(run_dir, trainer.model, tokenizer, report, model_card(report))
    result = {name: report[name] for name in ("pairs", "prompts", "held_out")}
    run_dir.emit("result", result={**main_figures(report), **result})


# --- data -----------------------------------------------------------------------------------------


def read_data(
    run_dir: RunDir, config: DPOSettings, chat: PolicyChat, limit: int
) -> tuple[Prepared, Pairs]:
    """Return the groups and pairs.

    Raises RecipeError, with reasons, if there is no pair to train on.
    """
    prepared = read_prepared(run_dir, chat, limit)
    options = pair_options(config)
    pairs: Pairs = {}
    for split, groups in prepared.groups.items():
        left_out: Counter[str] = Counter()
        pairs[split] = [
            (index, pair)
            for index, group in enumerate(groups)
            for pair in pairs_of(group, options, left_out)
        ]
        for name, reason in options.reasons().items():
            if left_out[name]:
                prepared.left_out[split, "pairs", reason] += left_out[name]
    if not pairs["train"]:
        raise nothing_to_train_on(run_dir, prepared, "a readable pair with a winner")
    return prepared, pairs


def pair_options(config: DPOSettings) -> PairOptions:
    return PairOptions(min_margin=config.min_margin, max_per_prompt=config.max_pairs_per_prompt)


def training_rows(prepared: Prepared, pairs: Pairs, config: DPOSettings) -> np.ndarray:
    """Return indices into pairs["train"], one per row of the data. An epoch shows each row once."""
    if config.weighting == "equal":
        return np.arange(len(pairs["train"]))
    return draw(np.array([pair.weight for _, pair in pairs["train"]]), config.seed)


def report_data(run_dir: RunDir, prepared: Prepared, pairs: Pairs, limit: int) -> None:
    run_dir.message(
        f"{len(pairs['train'])} pairs to train on, {len(pairs['test'])} held out; at most {limit} "
        "tokens each."
    )
    prepared.report_left_out(run_dir)


def pair_counts(rows: np.ndarray, pairs: Pairs) -> dict[str, int]:
    times = np.bincount(rows, minlength=len(pairs["train"]))
    return {
        "rows": len(rows),
        "pairs_shown_more_than_once": int((times > 1).sum()),
        "pairs_never_shown": int((times == 0).sum()),
    }


# --- parts of the loop ----------------------------------------------------------------------------


def make_trainer(
    run_dir: RunDir,
    config: DPOSettings,
    tokenizer: Any,
    rows: int,
    batch: tuple[int, int],
    callbacks: list[TrainerCallback],
) -> DPOTrainer:
    """Return a trainer without data, because its reference must be computed with it first.

    `batch` is (pairs per forward pass, accumulation steps).
    """
    name, revision = split_reference(config.model)
    targets = [target.strip() for target in config.lora_targets.split(",") if target.strip()]
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        base_model_name_or_path=name,
        revision=revision,
    )
    args = DPOConfig(
        **common_arguments(run_dir, config, rows=rows, batch=batch, saves=10),
        beta=config.beta,
        loss_type=[config.loss_type],
        max_length=None,  # no truncation: read_data left out what is too long
        gradient_checkpointing=config.gradient_checkpointing,
    )
    try:
        trainer = PretokenizedDPOTrainer(
            model=load_model(config.model, config.dtype, dropout=False),
            args=args,
            train_dataset=Dataset.from_dict({"prompt_ids": [[0]]}),  # replaced by `train`
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
        )
    except ValueError as error:
        raise RecipeError(f"The adapter cannot be put on {config.model}: {error}") from error
    trainer.remove_callback(PrinterCallback)
    # The columns ref_*_logps hold the reference, so the loss must not compute it again.
    trainer.precompute_ref_logps = True
    return trainer


def base_logps(
    trainer: DPOTrainer, prepared: Prepared, split: str, stop: StopSignal
) -> list[np.ndarray]:
    """Return log π_ref of each response, with the adapter off, one (K,) array per prompt."""
    with trainer.model.disable_adapter():
        return group_logps(trainer, prepared.tokens[split], stop)


def dataset(
    prepared: Prepared,
    pairs: list[tuple[int, Pair]],
    rows: np.ndarray,
    reference: list[np.ndarray],
) -> Dataset:
    """Return the columns that TRL's preference collator reads."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "prompt_ids",
            "chosen_ids",
            "rejected_ids",
            "ref_chosen_logps",
            "ref_rejected_logps",
            "length",
        )
    }
    for index, pair in (pairs[row] for row in rows):
        tokens, logps = prepared.tokens["train"][index], reference[index]
        columns["prompt_ids"].append(tokens.prompt)
        columns["chosen_ids"].append(tokens.responses[pair.chosen])
        columns["rejected_ids"].append(tokens.responses[pair.rejected])
        columns["ref_chosen_logps"].append(logps[pair.chosen])
        columns["ref_rejected_logps"].append(logps[pair.rejected])
        longer = max(len(tokens.responses[pair.chosen]), len(tokens.responses[pair.rejected]))
        columns["length"].append(len(tokens.prompt) + longer)
    return Dataset.from_dict(columns)


# --- the report -----------------------------------------------------------------------------------


def describe(rows: list[dict[str, Any]], tokenizer: Any, most: int = 4) -> str:
    """Return the first pairs of a batch as the model reads them, for a person to check."""
    parts = []
    for number, row in enumerate(rows[:most], 1):
        parts.append(f"— pair {number}\n[prompt]\n{tokenizer.decode(row['prompt_ids'])}")
        parts.append(f"[chosen]\n{tokenizer.decode(row['chosen_ids'])}")
        parts.append(f"[rejected]\n{tokenizer.decode(row['rejected_ids'])}")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(run_recipe(train, __doc__ or ""))
