"""Train a reward model on ranked responses.

Bradley-Terry over whole groups (see loss.py), K responses to a prompt at once as in InstructGPT
(Ouyang et al. 2022, arXiv:2203.02155): each response is forwarded once and, where the model family
allows it, the prompt once for all of them. LoRA (Hu et al. 2021, arXiv:2106.09685) on a decoder's
linear layers, with the score head trained and saved beside it.

What it leaves out, and why:
- truncation: a response that the model cannot read whole is left out, counted and reported
- the "unacceptable below here" line, graded strength: not used as a signal; the order alone is
- several groups in one row: rows are padded to the longest of a micro-batch
- FlexAttention: on a GPU too the shared layout is a dense mask through SDPA

Run it on any machine with a run directory, and again to go on after a stop:

    python -m reward.training.train RUN_DIR

RUN_DIR holds run.json, {"kind": "reward", "config": {"base_model": "FOLDER or HUB NAME", …}} with the
settings of reward/recipe_config.py, and data/*.parquet as reward/preference.py describes it. It gets
events.jsonl, checkpoints/ and, at the end, output/ with adapter and head (safetensors), tokenizer,
report.json and a model card. Exit status: 0 done, 1 failed, 75 stopped on SIGTERM after a checkpoint.
"""

import sys
import time
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainingArguments, set_seed

from reward.preference import PreferenceError, read_folder
from reward.recipe_config import RewardConfig
from reward.training import report as reports
from reward.training.card import model_card
from reward.training.layout import Collator, batches, describe
from reward.training.model import (
    UNLIMITED,
    RewardModel,
    check_shared,
    load_tokenizer,
    make_reward_model,
    readable_tokens,
    score_groups,
    torch_dtype,
)
from reward.training.tokens import ChatFormat, Prepared, TokenGroup, prepare
from reward.training.trainer import LogSensibly, RewardTrainer, TrainingClock, WatchHeldOut
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

SCORING_TOKENS = 8192
"""Tokens forwarded at once when nothing is learned from them."""
WATCHED_GROUPS = 200
"""Held-out groups scored after each epoch; the report at the end uses all."""


def train(run_dir: RunDir, stop: StopSignal) -> None:
    started = time.monotonic()
    config = RewardConfig.from_dict(run_dir.spec()["config"])
    tokenizer = load_tokenizer(config.base_model)
    chat = ChatFormat(tokenizer)
    limit = readable_tokens(config.base_model, tokenizer, config.max_tokens)
    prepared = read_data(run_dir, chat, limit)
    tell_data(run_dir, prepared, chat, limit)

    def attempt(micro_batch_size: int, accumulation: int) -> tuple[RewardTrainer, Collator, str]:
        set_seed(config.seed)
        model = make_reward_model(config, tokenizer)
        batch = (micro_batch_size, accumulation)
        trainer = make_trainer(run_dir, config, model, prepared, batch, stop)
        first = first_batch(trainer)
        collator = trainer.data_collator
        choose_layout(run_dir, config, model, collator, first, prepared)
        checkpoint = newest_checkpoint(run_dir)
        if checkpoint:
            run_dir.message(f"Going on from {checkpoint.name}.")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if trainer.state.global_step < trainer.state.max_steps:
            raise Stopped
        return trainer, collator, describe(first, tokenizer, shared=collator.layout == "shared")

    trainer, collator, first = with_smaller_batches(
        attempt,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        run_dir=run_dir,
    )
    run_dir.message(f"Scoring {len(prepared.tokens['test'])} held-out prompts for the report.")
    scored = score_held_out(trainer.model, prepared, collator, stop)
    report = {
        "kind": "reward",
        "base_model": config.base_model,
        **reports.quality(scored, config.seed),
        "data": data_figures(prepared),
        "left_out": prepared.account(),
        "training": training_figures(trainer, collator, chat, limit),
        "first_batch": first,
        "config": config.to_dict(),
        "inputs": run_dir.spec().get("inputs", {}),
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 2),
    }
    publish(run_dir, trainer.model, tokenizer, report)


# --- data -----------------------------------------------------------------------------------------


def read_data(run_dir: RunDir, chat: ChatFormat, limit: int) -> Prepared:
    """Raises RecipeError when there is nothing to train on, with the reasons."""
    try:
        prepared = prepare(read_folder(run_dir.data), chat, limit)
    except PreferenceError as error:
        raise RecipeError(str(error)) from error
    if not prepared.tokens["train"]:
        reasons = "; ".join(
            f"{row['count']} {row['what']}: {row['why']}" for row in prepared.account()
        )
        raise RecipeError(
            f"There is nothing to train on in {run_dir.data}: no prompt of the train split has two "
            f"readable responses that somebody compared. Left out: {reasons or 'nothing'}."
        )
    return prepared


def tell_data(run_dir: RunDir, prepared: Prepared, chat: ChatFormat, limit: int) -> None:
    figures = data_figures(prepared)
    length = "of any length" if limit >= UNLIMITED else f"at most {limit} tokens"
    run_dir.message(
        f"{figures['train']['prompts']} prompts to train on, {figures['test']['prompts']} held out; "
        f"written as {chat.name}, {length}."
    )
    for row in prepared.account():
        text = f"Left out of {row['split']}: {row['count']} {row['what']}, {row['why']}."
        run_dir.message(text, level="warning")


def data_figures(prepared: Prepared) -> dict[str, dict[str, int]]:
    return {
        split: {
            "prompts": len(groups),
            "responses": sum(len(group.responses) for group in groups),
            "pairs": reports.pair_count(groups),
            "rankings": sum(len(group.rankings) for group in groups),
        }
        for split, groups in prepared.groups.items()
    }


# --- the loop's parts -----------------------------------------------------------------------------


def make_trainer(
    run_dir: RunDir,
    config: RewardConfig,
    model: RewardModel,
    prepared: Prepared,
    batch: tuple[int, int],
    stop: StopSignal,
) -> RewardTrainer:
    """`batch` is (prompts at once, accumulation steps)."""
    collator = Collator(model.config.get_text_config().pad_token_id)
    events = ProgressEvents(run_dir)
    trainer = RewardTrainer(
        model=model,
        args=training_arguments(run_dir, config, len(prepared.tokens["train"]), batch),
        train_dataset=prepared.tokens["train"],
        data_collator=collator,
        callbacks=[
            LogSensibly(),
            events,
            WatchHeldOut(lambda: held_out_accuracy(model, prepared, collator), events),
            RefuseNonFinite(),
            CompleteCheckpoints(run_dir, stop=stop),
            TrainingClock.after(newest_checkpoint(run_dir)),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_arguments(
    run_dir: RunDir, config: RewardConfig, prompts: int, batch: tuple[int, int]
) -> TrainingArguments:
    steps = ceil(config.epochs * ceil(prompts / config.batch_size))
    half = torch_dtype(config.dtype) == torch.bfloat16
    return TrainingArguments(
        output_dir=str(trainer_folder(run_dir)),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=batch[0],
        gradient_accumulation_steps=batch[1],
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=half,
        use_cpu=half and not torch.cuda.is_available(),
        seed=config.seed,
        data_seed=config.seed,
        save_steps=config.checkpoint_steps or max(1, ceil(steps / 20)),
        logging_strategy="no",  # LogSensibly decides
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
    )


def held_out_accuracy(model: RewardModel, prepared: Prepared, collator: Collator) -> float | None:
    """Over the first WATCHED_GROUPS held-out groups; None where nobody ordered any pair strictly."""
    scores = score_all(model, prepared.tokens["test"][:WATCHED_GROUPS], collator)
    groups = prepared.groups["test"][: len(scores)]
    tallies = [reports.order_tally(g, s) for g, s in zip(groups, scores, strict=True)]
    evidence = sum(tally.evidence for tally in tallies)
    return sum(tally.agreeing for tally in tallies) / evidence if evidence else None


def first_batch(trainer: RewardTrainer) -> list[TokenGroup]:
    """The groups of the run's very first micro-batch, which a resumed run does not see again."""
    sampler = trainer.get_train_dataloader().batch_sampler
    return [trainer.train_dataset[index] for index in next(iter(sampler))]


def choose_layout(
    run_dir: RunDir,
    config: RewardConfig,
    model: RewardModel,
    collator: Collator,
    first: Sequence[TokenGroup],
    prepared: Prepared,
) -> None:
    if config.layout == "plain":
        return
    everything = [*prepared.tokens["train"], *prepared.tokens["test"]]
    longest = max(group.longest() for group in everything)
    problem = check_shared(model, first, collator.pad_id, longest=longest)
    if problem:
        run_dir.message(
            f"The prompt cannot be shared between responses with this model: {problem}. Training "
            "goes on with one copy of the prompt for each response, which is slower.",
            level="warning",
        )
        return
    collator.layout = "shared"
    run_dir.message(
        "Each prompt is forwarded once for all its responses; checked on the first batch."
    )


# --- afterwards -----------------------------------------------------------------------------------


def score_all(
    model: RewardModel,
    groups: Sequence[TokenGroup],
    collator: Collator,
    stop: StopSignal | None = None,
) -> list[np.ndarray]:
    """Scores of each group's responses, in order; raises Stopped when asked to.  → (K,) arrays"""
    scores: list[np.ndarray] = []
    for batch in batches(groups, max_tokens=SCORING_TOKENS):
        if stop:
            stop.check()
        chosen = [groups[index] for index in batch]
        rows = score_groups(model, chosen, collator).numpy()
        scores += [row[: len(g.responses)] for row, g in zip(rows, chosen, strict=True)]
    return scores


def score_held_out(
    model: RewardModel, prepared: Prepared, collator: Collator, stop: StopSignal
) -> list[reports.Scored]:
    tokens = prepared.tokens["test"]
    scores = score_all(model, tokens, collator, stop)
    lengths = [np.array([len(r) for r in group.responses], dtype=float) for group in tokens]
    rows = zip(prepared.groups["test"], scores, lengths, strict=True)
    return [reports.Scored(*row) for row in rows]


def training_figures(
    trainer: RewardTrainer, collator: Collator, chat: ChatFormat, limit: int
) -> dict[str, Any]:
    curve = [(row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row]
    clock = next(c for c in trainer.callback_handler.callbacks if isinstance(c, TrainingClock))
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return {
        "final_loss": curve[-1][1] if curve else None,
        "curve": curve,
        "steps": trainer.state.global_step,
        "seconds": round(clock.seconds, 2),
        "layout": collator.layout,
        "text_format": chat.name,
        "max_tokens": limit,
        "trained_weights": trained,
        "weights": sum(p.numel() for p in trainer.model.parameters()),
        "micro_batch_size": trainer.args.per_device_train_batch_size,
        "device": str(trainer.args.device),
        "memory_mb": peak_memory_mb(),
    }


def publish(run_dir: RunDir, model: RewardModel, tokenizer: Any, report: dict[str, Any]) -> None:
    with run_dir.publish() as draft:
        model.save(draft)
        verify_saved(model, draft)
        tokenizer.save_pretrained(draft)
        write_json(draft / "report.json", report)
        (draft / "README.md").write_text(model_card(report))
    figures = ("accuracy", "reviewer_agreement", "longer_is_better")
    result = {name: {k: report[name][k] for k in ("value", "interval")} for name in figures}
    run_dir.emit(
        "result", result={**result, "ece": report["calibration"]["ece"], "data": report["data"]}
    )


def verify_saved(model: RewardModel, folder: Path) -> None:
    """Raises RecipeError unless the folder holds what was trained, bit for bit."""
    written = {}
    for file in folder.glob("*.safetensors"):
        written.update(load_file(file))
    for name, weight in model.weights_to_save().items():
        if name not in written or not torch.equal(weight.cpu(), written[name]):
            raise RecipeError(
                f"The model was not saved whole: {name} is missing. Is the disk full?"
            )


if __name__ == "__main__":
    sys.exit(run_recipe(train, __doc__ or ""))
