"""Train a reward model on ranked responses.

Bradley-Terry over whole groups (see loss.py), K responses to a prompt at once as in InstructGPT
(Ouyang et al. 2022, arXiv:2203.02155): each response is forwarded once and, where the model family
allows it, the prompt once for all of them. LoRA (Hu et al. 2021, arXiv:2106.09685) on a decoder's
linear layers, with the score head trained and saved beside it.

What it leaves out, and why:
- truncation: a response that the model cannot read whole is left out, counted and reported
- steps of a number of tokens: a step is a number of prompts, so that long ones do not weigh less

Run it on any machine with a run directory, and again to go on after a stop:

    python -m reward.training.train RUN_DIR

RUN_DIR holds run.json, {"kind": "reward", "config": {"base_model": "FOLDER or HUB NAME", …}} with the
settings of reward/settings.py, and data/*.parquet as recipes/preferences/groups.py describes it. It gets
events.jsonl, checkpoints/ and, at the end, output/ with adapter and head (safetensors), tokenizer,
report.json and a model card. Exit status: 0 done, 1 failed, 75 stopped on
SIGTERM after a checkpoint, 76 to be started again (several processes were out of memory).
"""

import sys
import time
from collections.abc import Sequence
from functools import partial
from math import ceil
from typing import Any

import numpy as np
from transformers import PrinterCallback, TrainingArguments, set_seed

from recipes import processes
from recipes.errors import RecipeError
from recipes.layout import attention
from recipes.layout.collate import Collator, StepCollator, cut, describe
from recipes.layout.compiling import compile_layers
from recipes.layout.families import check_gradients, check_shared
from recipes.memory import free_memory, is_out_of_memory, with_smaller_batches
from recipes.models.references import torch_dtype
from recipes.preferences.evidence import evidence
from recipes.preferences.groups import rated_criteria, read_folder, strict_wins, wins
from recipes.preferences.objective import Objective
from recipes.preferences.tokens import (
    ChatFormat,
    Prepared,
    TokenGroup,
    nothing_to_train_on,
    read_prepared,
)
from recipes.publishing import publish
from recipes.rundir import RunDir
from recipes.runner import provenance, run_recipe
from recipes.stopping import StopSignal
from recipes.trainer import (
    GroupTrainer,
    WatchHeldOut,
    common_arguments,
    common_callbacks,
    first_batch,
    train_to_the_end,
    training_figures,
)
from recipes.trainer_callbacks import ProgressEvents
from reward.evaluation import report as reports
from reward.evaluation.calibration import temperature
from reward.evaluation.confident_mistakes import worst_mistakes
from reward.evaluation.slices import length_slices, slices
from reward.evaluation.uncertainty import disagreement
from reward.settings import RewardConfig
from reward.training.card import model_card
from reward.training.model import (
    UNLIMITED,
    RewardModel,
    load_tokenizer,
    make_reward_model,
    outputs_of,
    readable_tokens,
)
from reward.training.parts import Parts
from reward.training.reading import check_reading

SCORING_TOKENS = 8192
"""Tokens forwarded at once when nothing is learned from them; less where memory runs out."""
WATCHED_GROUPS = 200
"""Held-out groups scored after each epoch; the report at the end uses all."""


def train(run_dir: RunDir, stop: StopSignal) -> None:
    started = time.monotonic()
    config = RewardConfig.from_dict(run_dir.spec()["config"])
    tokenizer = load_tokenizer(config.base_model)
    chat = ChatFormat(tokenizer)
    limit = readable_tokens(config.base_model, tokenizer, config.max_tokens)
    criteria = read_criteria(run_dir) if config.criteria_weight else []
    prepared = read_data(run_dir, config, chat, limit, criteria)
    tell_data(run_dir, prepared, chat, limit)

    def fit(folder: RunDir, data: Prepared) -> tuple[GroupTrainer, str | None, str]:
        objective = Objective.of(config, data.groups["train"])

        def attempt(
            micro_batch_size: int, accumulation: int
        ) -> tuple[GroupTrainer, str | None, str]:
            set_seed(config.seed)
            folder.stage("Loading the model")
            model = make_reward_model(config, tokenizer, criteria=len(criteria))
            steps = step_collator(config, model, micro_batch_size)
            trainer = make_trainer(folder, config, model, data, steps, stop, objective)
            first = first_batch(trainer)
            folder.stage("Checking the first batch")
            reason = choose_layout(folder, config, model, steps.collator, first, data)
            if config.compile:
                compile_layers(model.classifier)
            train_to_the_end(trainer, folder)
            return trainer, reason, describe(first, tokenizer, shared=reason is None)

        return with_smaller_batches(
            attempt,
            batch_size=config.batch_size,
            micro_batch_size=config.micro_batch_size,
            run_dir=folder,
        )

    def train_and_score(folder: RunDir, data: Prepared) -> list[reports.Scored]:
        trainer, _, _ = fit(folder, data)
        return score_held_out(trainer.model, data, trainer.data_collator.collator, stop)

    parts = Parts(run_dir, prepared, train_and_score)
    smaller, folds = parts.curve(config), parts.folds(config)
    trainer, reason, first = fit(run_dir, prepared)
    if processes.rank():
        return
    collator = trainer.data_collator.collator
    run_dir.stage(f"Scoring {len(prepared.tokens['test'])} held-out prompts for the report")
    scored = score_held_out(trainer.model, prepared, collator, stop)
    # σ of a gap is how often it wins; with ties as an outcome of their own, of the wins alone.
    sides = wins if config.ties == "half" else strict_wins
    report = {
        "kind": "reward",
        "base_model": config.base_model,
        "outputs": {"heads": config.heads, "criteria": criteria},
        **reports.quality(scored, config.seed, sides),
        "disagreement": disagreement(scored, config.seed) if config.heads > 1 else None,
        "criteria": reports.criteria(scored, criteria, config.seed),
        "temperature": temperature(scored, config.seed, sides),
        "length_slices": length_slices(scored, config.seed),
        "slices": slices(scored, config.seed),
        "mistakes": worst_mistakes(scored),
        **parts.figures(config, smaller, folds, scored),
        "data": data_figures(prepared),
        "left_out": prepared.account(),
        "training": {
            **training_figures(trainer, limit),
            "micro_batch_size": trainer.data_collator.most,
            "processes": processes.count(),
            "layout": collator.layout,
            "layout_reason": reason,
            "packed": collator.packed,
            "attention": trainer.model.attends if collator.layout == "shared" else None,
            "text_format": chat.name,
            "text_ending": chat.ending,
            "tie_width": trainer.objective.tie_width or None,
        },
        "first_batch": first,
        **provenance(run_dir, config, started=started),
    }
    tell_final_accuracy(run_dir, trainer, report)
    publish(run_dir, trainer.model.ordinary, tokenizer, report, model_card(report))
    result = {"ece": report["calibration"]["ece"], "data": report["data"]}
    run_dir.emit("result", result={**reports.headline(report), **result})


def tell_final_accuracy(run_dir: RunDir, trainer: GroupTrainer, report: dict[str, Any]) -> None:
    """End the curve of held-out accuracy at the number of the report."""
    value, state = report["accuracy"]["value"], trainer.state
    if value is not None:
        losses = [row["loss"] for row in state.log_history if "loss" in row]
        run_dir.emit(
            "progress",
            step=state.max_steps,
            total=state.max_steps,
            loss=losses[-1] if losses else None,
            metrics={"test_accuracy": value},
        )


# --- data -----------------------------------------------------------------------------------------


def read_criteria(run_dir: RunDir) -> list[str]:
    """The criteria that the training data rates. Reads the data once; raises RecipeError if none."""
    train = (group for group in read_folder(run_dir.data) if group.split == "train")
    found = sorted(set().union(*map(rated_criteria, train)))
    if not found:
        raise RecipeError(
            "No ranking of the train split rates a criterion, so there is nothing to learn about "
            "single criteria. Set criteria_weight to 0."
        )
    return found


def read_data(
    run_dir: RunDir, config: RewardConfig, chat: ChatFormat, limit: int, criteria: Sequence[str]
) -> Prepared:
    """Raises RecipeError when there is nothing to train on, with the reasons."""
    evidence_of = partial(evidence, config=config, criteria=criteria)
    prepared = read_prepared(run_dir, chat, limit, evidence_of)
    prepared.make_weights_relative()
    if not prepared.tokens["train"]:
        lacking = "two readable responses that somebody compared"
        raise nothing_to_train_on(run_dir, prepared, lacking)
    return prepared


def tell_data(run_dir: RunDir, prepared: Prepared, chat: ChatFormat, limit: int) -> None:
    figures = data_figures(prepared)
    length = "of any length" if limit >= UNLIMITED else f"at most {limit} tokens"
    run_dir.message(
        f"{figures['train']['prompts']} prompts to train on, {figures['test']['prompts']} held out; "
        f"written as {chat.name}, {length}."
    )
    prepared.tell_left_out(run_dir)


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


def step_collator(config: RewardConfig, model: RewardModel, micro_batch_size: int) -> StepCollator:
    """When memory ran out and fewer prompts are forwarded at once, it is fewer tokens too."""
    share = micro_batch_size / config.micro_batch_size
    at_once = config.tokens_at_once and max(1, int(config.tokens_at_once * share))
    pad_id = model.config.get_text_config().pad_token_id
    most = min(micro_batch_size, ceil(config.batch_size / processes.count()))
    return StepCollator(Collator(pad_id), most, at_once)


def make_trainer(
    run_dir: RunDir,
    config: RewardConfig,
    model: RewardModel,
    prepared: Prepared,
    steps: StepCollator,
    stop: StopSignal,
    objective: Objective,
) -> GroupTrainer:
    rows, batch = len(prepared.tokens["train"]), (config.batch_size, 1)
    events = ProgressEvents(run_dir)
    trainer = GroupTrainer(
        objective=objective,
        model=model,
        args=TrainingArguments(
            **common_arguments(run_dir, config, rows=rows, batch=batch, saves=20),
            remove_unused_columns=False,
            label_names=["labels"],
        ),
        train_dataset=prepared.tokens["train"],
        data_collator=steps,
        callbacks=[
            *common_callbacks(run_dir, events, stop),
            WatchHeldOut(lambda: held_out_accuracy(model, prepared, steps.collator), events),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def held_out_accuracy(model: RewardModel, prepared: Prepared, collator: Collator) -> float | None:
    """Over the first WATCHED_GROUPS held-out groups; None where nobody ordered any pair strictly."""
    outputs = score_all(model, prepared.tokens["test"][:WATCHED_GROUPS], collator)
    groups = prepared.groups["test"][: len(outputs)]
    scores = [found[:, : model.heads].mean(axis=-1) for found in outputs]
    return reports.agreeing_share(
        [reports.order_tally(g, s) for g, s in zip(groups, scores, strict=True)]
    )


def choose_layout(
    run_dir: RunDir,
    config: RewardConfig,
    model: RewardModel,
    collator: Collator,
    first: Sequence[TokenGroup],
    prepared: Prepared,
) -> str | None:
    """Sets the collator's; returns why it is not the shared one.

    Raises RecipeError where not even the plain layout reads this family right.
    """
    check_reading(model, first, collator.pad_id)
    if config.layout == "plain":
        return "the settings ask for it"
    everything = [*prepared.tokens["train"], *prepared.tokens["test"]]
    longest = max(group.longest() for group in everything)
    problem = check_shared(model, first, collator.pad_id, longest=longest)
    problem = problem or check_gradients(model, first, collator.pad_id, torch_dtype(config.dtype))
    problem = processes.as_first(problem)  # or each would cut a step into other parts
    if problem:
        run_dir.message(
            f"The prompt cannot be shared between responses with this model: {problem}. Training "
            "goes on with one copy of the prompt for each response, which is slower.",
            level="warning",
        )
        return problem
    collator.layout = "shared"
    collator.packed = config.packing == "always" or (
        config.packing == "auto" and model.attends != attention.DENSE
    )
    run_dir.message(
        "Each prompt is forwarded once for all its responses"
        f"{', several prompts in a row' if collator.packed else ''}; checked on the first batch."
    )
    return None


# --- afterwards -----------------------------------------------------------------------------------


def score_all(
    model: RewardModel,
    groups: Sequence[TokenGroup],
    collator: Collator,
    stop: StopSignal | None = None,
) -> list[np.ndarray]:
    """All outputs for each group's responses, in order.  → (K, N + C) arrays

    Forwards half as much at once where memory runs out. Raises Stopped when asked to.
    """
    sizes, at_once = [collator.tokens(group) for group in groups], SCORING_TOKENS
    scores: list[np.ndarray] = []
    while len(scores) < len(groups):
        if stop:
            stop.check()
        first = len(scores)
        together = next(cut(sizes[first:], max_tokens=at_once))
        chosen = [groups[first + index] for index in together]
        try:
            rows = outputs_of(model, chosen, collator).numpy()
        except (RuntimeError, MemoryError) as error:
            if len(chosen) == 1 or not is_out_of_memory(error):
                raise
            at_once = max(sizes[first : first + len(chosen)]) * len(chosen) // 2
            free_memory()
            continue
        scores += [row[: len(g.responses)] for row, g in zip(rows, chosen, strict=True)]
    return scores


def score_held_out(
    model: RewardModel, prepared: Prepared, collator: Collator, stop: StopSignal
) -> list[reports.Scored]:
    tokens = prepared.tokens["test"]
    outputs = score_all(model, tokens, collator, stop)
    scored = []
    for group, found, read in zip(prepared.groups["test"], outputs, tokens, strict=True):
        heads, criteria = found[:, : model.heads], found[:, model.heads :]
        lengths = read.lengths()
        scored.append(reports.Scored(group, heads.mean(axis=-1), lengths, heads, criteria))
    return scored


if __name__ == "__main__":
    sys.exit(run_recipe(train, __doc__ or ""))
