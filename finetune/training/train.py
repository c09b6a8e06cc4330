"""Fine-tune a LoRA adapter on preferences.

Direct Preference Optimization (Rafailov et al. 2023, arXiv:2305.18290) by TRL's DPOTrainer, with
LoRA (Hu et al. 2021, arXiv:2106.09685) on the linear layers. The reference is the same model with
the adapter off, and its log-probabilities are computed once, each response once, before training.

What it leaves out, and why:
- truncation: a response that the model cannot read whole is left out, counted and reported
- a weighted loss: TRL has none, so a pair with more evidence is shown more often (finetune/pairs.py)
- dropout: DPO's reference has none, and a policy with it would differ before it learned anything
- going on from an adapter: merge it first (finetune/training/merge.py), then train a new one
- SFT on the chosen responses first: wanted when the base was never tuned to answer at all

Run it on any machine with a run directory, and again to go on after a stop:

    python -m finetune.training.train RUN_DIR

RUN_DIR holds run.json, {"kind": "dpo", "config": {"model": "FOLDER or HUB NAME", …}} with the settings
of DPOSettings in finetune/recipe_config.py, and data/*.parquet as reward/preference.py describes it. It
gets events.jsonl, checkpoints/ and, at the end, output/ with adapter (safetensors), tokenizer,
report.json and a model card. Exit status: 0 done, 1 failed, 75 stopped on SIGTERM after a checkpoint.
"""

import sys
import time
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from finetune.pairs import Pair, draw, select, strict_pairs
from finetune.recipe_config import DPOSettings
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
from finetune.training.trainer import ReadyDPOTrainer, WatchHeldOut
from reward.preference import PreferenceError, read_folder
from reward.training.model import split_reference, torch_dtype
from reward.training.tokens import Prepared, prepare
from reward.training.trainer import LogSensibly, TrainingClock
from reward.training.trainer_events import (
    CompleteCheckpoints,
    ProgressEvents,
    RecipeError,
    RefuseNonFinite,
    Stopped,
    StopSignal,
    newest_checkpoint,
    peak_memory_mb,
    run_recipe,
    trainer_folder,
    versions,
    with_smaller_batches,
    write_json,
)
from runs.rundir import RunDir

Pairs = dict[str, list[tuple[int, Pair]]]
"""By split: (place of the prompt in `Prepared`, pair of its responses)."""


def train(run_dir: RunDir, stop: StopSignal) -> None:
    started = time.monotonic()
    config = DPOSettings.from_dict(run_dir.spec()["config"])
    tokenizer = load_tokenizer(config.model)
    model = load_model(config.model, config.dtype)
    check_vocabulary(model, tokenizer, config.model)
    chat = PolicyChat(tokenizer, model.generation_config)
    limit = min(config.max_length, readable_length(model.config) or config.max_length)
    del model  # out of memory or not, each attempt starts from a fresh one
    prepared, pairs = read_data(run_dir, config, chat, limit)
    rows = training_rows(prepared, pairs, config)
    tell_data(run_dir, prepared, pairs, limit)

    def attempt(micro_batch_size: int, accumulation: int) -> tuple[DPOTrainer, HeldOut]:
        events = ProgressEvents(run_dir)
        callbacks = [
            LogSensibly(),
            events,
            RefuseNonFinite(),
            CompleteCheckpoints(run_dir, stop=stop),
            TrainingClock.after(newest_checkpoint(run_dir)),
        ]
        trainer = make_trainer(
            run_dir, config, tokenizer, len(rows), micro_batch_size, accumulation, callbacks
        )
        run_dir.message(
            "Asking the model with the adapter off for its probabilities, the reference."
        )
        reference = {s: base_logps(trainer, prepared, s, stop) for s in ("train", "test")}
        trainer.train_dataset = dataset(prepared, pairs["train"], rows, reference["train"])
        held_out = HeldOut(trainer, prepared, pairs["test"], reference["test"], config, stop)
        trainer.add_callback(WatchHeldOut(held_out, events, config.evaluations))
        checkpoint = newest_checkpoint(run_dir)
        if checkpoint:
            run_dir.message(f"Going on from {checkpoint.name}.")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.state.global_step < trainer.state.max_steps:
            raise Stopped
        return trainer, held_out

    trainer, held_out = with_smaller_batches(
        attempt,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        run_dir=run_dir,
    )
    run_dir.message(f"Looking at {len(prepared.tokens['test'])} held-out prompts for the report.")
    report = {
        "kind": "dpo",
        "model": config.model,
        "pairs": {split: len(found) for split, found in pairs.items()},
        "prompts": {split: len({g for g, _ in found}) for split, found in pairs.items()},
        "shown": shown(rows, pairs),
        "left_out": prepared.account(),
        **held_out.report(),
        "training": training_figures(trainer, limit),
        "first_batch": first_batch(trainer, tokenizer),
        "config": config.to_dict(),
        "inputs": run_dir.spec().get("inputs", {}),
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 2),
    }
    publish(run_dir, trainer.model, tokenizer, report)


# --- data -----------------------------------------------------------------------------------------


def read_data(
    run_dir: RunDir, config: DPOSettings, chat: PolicyChat, limit: int
) -> tuple[Prepared, Pairs]:
    """Raises RecipeError when there is no pair to train on, with the reasons."""
    try:
        prepared = prepare(read_folder(run_dir.data), chat, limit)
    except PreferenceError as error:
        raise RecipeError(str(error)) from error
    pairs: Pairs = {}
    for split, groups in prepared.groups.items():
        pairs[split] = []
        for place, group in enumerate(groups):
            found = strict_pairs(group, prepared.left_out)
            if split == "train":
                found = select(
                    group,
                    found,
                    prepared.left_out,
                    min_margin=config.min_margin,
                    at_most=config.max_pairs_per_prompt,
                )
            pairs[split] += [(place, pair) for pair in found]
    if not pairs["train"]:
        reasons = "; ".join(
            f"{row['count']} {row['what']}: {row['why']}" for row in prepared.account()
        )
        raise RecipeError(
            f"There is nothing to train on in {run_dir.data}: no prompt of the train split has a "
            f"readable pair with a winner. Left out: {reasons or 'nothing'}."
        )
    return prepared, pairs


def training_rows(prepared: Prepared, pairs: Pairs, config: DPOSettings) -> np.ndarray:
    """Places in pairs["train"], one a row of the training data; an epoch shows each row once."""
    if config.weighting == "equal":
        return np.arange(len(pairs["train"]))
    return draw(np.array([pair.weight for _, pair in pairs["train"]]), config.seed)


def tell_data(run_dir: RunDir, prepared: Prepared, pairs: Pairs, limit: int) -> None:
    run_dir.message(
        f"{len(pairs['train'])} pairs to train on, {len(pairs['test'])} held out; at most {limit} "
        "tokens each."
    )
    for row in prepared.account():
        text = f"Left out of {row['split']}: {row['count']} {row['what']}, {row['why']}."
        run_dir.message(text, level="warning")


def shown(rows: np.ndarray, pairs: Pairs) -> dict[str, int]:
    times = np.bincount(rows, minlength=len(pairs["train"]))
    return {
        "rows": len(rows),
        "pairs_shown_more_than_once": int((times > 1).sum()),
        "pairs_never_shown": int((times == 0).sum()),
    }


# --- the loop's parts -----------------------------------------------------------------------------


def make_trainer(
    run_dir: RunDir,
    config: DPOSettings,
    tokenizer: Any,
    rows: int,
    micro_batch_size: int,
    accumulation: int,
    callbacks: list[TrainerCallback],
) -> DPOTrainer:
    """A trainer without data: its reference has to be computed with it first."""
    steps = config.epochs * ceil(rows / config.batch_size)
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
        output_dir=str(trainer_folder(run_dir)),
        beta=config.beta,
        loss_type=[config.loss_type],
        max_length=None,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=config.gradient_checkpointing,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=torch_dtype(config.dtype) == torch.bfloat16,
        seed=config.seed,
        data_seed=config.seed,
        save_steps=config.checkpoint_steps or max(1, ceil(steps / 10)),
        logging_strategy="no",  # LogSensibly decides
        logging_nan_inf_filter=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
    )
    try:
        trainer = ReadyDPOTrainer(
            model=load_model(config.model, config.dtype, dropout=False),
            args=args,
            train_dataset=Dataset.from_dict({"prompt_ids": [[0]]}),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=callbacks,
        )
    except ValueError as error:
        raise RecipeError(f"The adapter cannot be put on {config.model}: {error}") from error
    trainer.remove_callback(PrinterCallback)
    trainer.precompute_ref_logps = True  # they come with the data
    return trainer


def base_logps(
    trainer: DPOTrainer, prepared: Prepared, split: str, stop: StopSignal
) -> list[np.ndarray]:
    """log π_ref of each response: the model with the adapter off.  → one (K,) array a prompt"""
    with trainer.model.disable_adapter():
        return group_logps(trainer, prepared.tokens[split], stop)


def dataset(
    prepared: Prepared,
    pairs: list[tuple[int, Pair]],
    rows: np.ndarray,
    reference: list[np.ndarray],
) -> Dataset:
    """What TRL's collator for preferences reads."""
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
    for place, pair in (pairs[row] for row in rows):
        tokens, logps = prepared.tokens["train"][place], reference[place]
        columns["prompt_ids"].append(tokens.prompt)
        columns["chosen_ids"].append(tokens.responses[pair.chosen])
        columns["rejected_ids"].append(tokens.responses[pair.rejected])
        columns["ref_chosen_logps"].append(logps[pair.chosen])
        columns["ref_rejected_logps"].append(logps[pair.rejected])
        longer = max(len(tokens.responses[pair.chosen]), len(tokens.responses[pair.rejected]))
        columns["length"].append(len(tokens.prompt) + longer)
    return Dataset.from_dict(columns)


# --- afterwards -----------------------------------------------------------------------------------


def training_figures(trainer: DPOTrainer, limit: int) -> dict[str, Any]:
    curve = [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
    clock = next(c for c in trainer.callback_handler.callbacks if isinstance(c, TrainingClock))
    return {
        "final_loss": curve[-1][1] if curve else None,
        "curve": curve,
        "steps": trainer.state.global_step,
        "seconds": round(clock.seconds, 2),
        "max_tokens": limit,
        "trained_weights": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "weights": sum(p.numel() for p in trainer.model.parameters()),
        "micro_batch_size": trainer.args.per_device_train_batch_size,
        "device": str(trainer.args.device),
        "memory_mb": peak_memory_mb(),
    }


def first_batch(trainer: DPOTrainer, tokenizer: Any, most: int = 4) -> str:
    """The run's very first pairs as the model reads them, for a person to check by eye."""
    sampler = trainer.get_train_dataloader().batch_sampler
    parts = []
    for number, index in enumerate(next(iter(sampler))[:most], 1):
        row = trainer.train_dataset[index]
        parts.append(f"— pair {number}\n[prompt]\n{tokenizer.decode(row['prompt_ids'])}")
        parts.append(f"[chosen]\n{tokenizer.decode(row['chosen_ids'])}")
        parts.append(f"[rejected]\n{tokenizer.decode(row['rejected_ids'])}")
    return "\n".join(parts)


def publish(run_dir: RunDir, model: Any, tokenizer: Any, report: dict[str, Any]) -> None:
    with run_dir.publish() as draft:
        model.save_pretrained(draft)
        verify_saved(model, draft)
        tokenizer.save_pretrained(draft)
        write_json(draft / "report.json", report)
        (draft / "README.md").write_text(model_card(report))
    figures = ("accuracy", "reviewer_agreement", "longer_is_better")
    result = {name: {k: report[name][k] for k in ("value", "interval")} for name in figures}
    more = {name: report[name] for name in ("pairs", "prompts", "held_out")}
    run_dir.emit("result", result={**result, **more})


def verify_saved(model: Any, folder: Path) -> None:
    """Raises RecipeError unless the folder holds the adapter that was trained, bit for bit."""
    written = load_file(folder / "adapter_model.safetensors")
    for name, weight in get_peft_model_state_dict(model).items():
        if name not in written or not torch.equal(weight.cpu(), written[name]):
            raise RecipeError(
                f"The adapter was not saved whole: {name} is missing. Is the disk full?"
            )


if __name__ == "__main__":
    sys.exit(run_recipe(train, __doc__ or ""))
