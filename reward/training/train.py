"""Train a reward model on ranked responses.

The loss is that of Bradley and Terry for whole groups (recipes/preferences/loss.py). All K responses to
a prompt are in the same step, as in InstructGPT (Ouyang et al. 2022, arXiv:2203.02155). Each response
is forwarded once. If the model family allows it, the prompt is forwarded once for all its responses.
The linear layers of a decoder get LoRA (Hu et al. 2021, arXiv:2106.09685). The score head is also
trained, and saved with the adapter.

Deliberately not implemented:
- truncation: a response that is too long for the model is left out, counted and reported
- steps with a fixed number of tokens: a step has a fixed number of prompts, so that long prompts do
  not count more than short ones

Run the recipe on any machine that has a run directory. The same command resumes after a stop:

    python -m reward.training.train RUN_DIR

RUN_DIR contains run.json, {"kind": "reward", "config": {"base_model": "FOLDER or HUB NAME", …}}, with
the settings of reward/settings.py, and data/*.parquet as described in recipes/preferences/groups.py.
The recipe adds events.jsonl, checkpoints/ and, at the end, output/ with the adapter and the head
(safetensors), the tokenizer, report.json and the model card. The exit status is 0 if the run is done, 1
if it failed, 75 if it was stopped by SIGTERM after a checkpoint, and 76 if it must be started again
because one of several processes ran out of memory.
"""

import sys
import time
from collections.abc import Sequence
from functools import partial

from transformers import PrinterCallback, TrainingArguments, set_seed

from recipes.errors import RecipeError
from recipes.layout.choice import choose_layout
from recipes.layout.collate import Collator, StepCollator, describe, step_collator
from recipes.layout.compiling import compile_layers
from recipes.layout.forward import score_all
from recipes.machine import processes
from recipes.machine.memory import with_smaller_batches
from recipes.models.chat_format import ChatFormat
from recipes.models.chat_options import freeze
from recipes.preferences.groups import rated_criteria, read_folder, strict_wins, wins
from recipes.preferences.loss_inputs import loss_inputs
from recipes.preferences.objective import Objective
from recipes.preferences.tokens import (
    Prepared,
    no_training_data,
    read_prepared,
)
from recipes.publishing.output import publish
from recipes.rundir import RunDir
from recipes.runner import provenance, run_recipe
from recipes.stopping import StopSignal
from recipes.training.callbacks import ProgressEvents
from recipes.training.trainer import (
    GroupTrainer,
    WatchHeldOut,
    common_arguments,
    common_callbacks,
    first_batch,
    train_to_the_end,
    training_figures,
)
from reward.evaluation import report as reports
from reward.evaluation.calibration import temperature
from reward.evaluation.confident_mistakes import worst_mistakes
from reward.evaluation.figures import main_figures
from reward.evaluation.schema import RewardReport
from reward.evaluation.slices import length_slices, slices
from reward.evaluation.uncertainty import disagreement
from reward.settings import RewardConfig
from reward.training.card import model_card
from reward.training.models.reading import check_reading
from reward.training.models.reward_model import (
    UNLIMITED,
    RewardModel,
    load_tokenizer,
    make_reward_model,
    readable_tokens,
)
from reward.training.parts import Parts

WATCHED_GROUPS = 200
"""The number of held-out groups that are scored after each epoch. The report uses all groups."""


def train(run_dir: RunDir, stop: StopSignal) -> None:
    started = time.monotonic()
    config = RewardConfig.from_dict(run_dir.spec()["config"])
    tokenizer = load_tokenizer(config.base_model)
    record = freeze(run_dir, config, tokenizer, sources=(config.base_model,))
    chat = ChatFormat(tokenizer, record.options)
    limit = readable_tokens(config.base_model, tokenizer, config.max_tokens)
    criteria = read_criteria(run_dir) if config.criteria_weight else []
    prepared = read_data(run_dir, config, chat, limit, criteria)
    report_data(run_dir, prepared, chat, limit)

    def fit(folder: RunDir, data: Prepared) -> tuple[GroupTrainer, str | None, str]:
        objective = Objective.of(config, data.groups["train"])

        def attempt(
            micro_batch_size: int, _accumulation: int
        ) -> tuple[GroupTrainer, str | None, str]:
            set_seed(config.seed)
            folder.stage("Loading the model")
            model = make_reward_model(config, tokenizer, criteria=len(criteria))
            pad_id = model.config.get_text_config().pad_token_id
            steps = step_collator(config, Collator(pad_id), micro_batch_size)
            trainer = make_trainer(folder, config, model, data, steps, stop, objective)
            first = first_batch(trainer)
            folder.stage("Checking the first batch")
            check_reading(model, first, steps.collator.pad_id)
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
    # σ of a gap is the probability of a win. If ties are a third outcome, it excludes ties.
    sides = wins if config.ties == "half" else strict_wins
    report: RewardReport = {
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
        "learning_curve": parts.learning_curve(config, smaller, scored),
        "label_mistakes": parts.label_mistakes(folds, scored),
        "data": reports.split_counts(prepared.groups),
        "left_out": prepared.account(),
        "chat": {**record.to_dict(), "notes": prepared.text_notes()},
        "training": {
            **training_figures(trainer, limit),
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
    report_final_accuracy(run_dir, trainer, report)
    publish(run_dir, trainer.model.ordinary, tokenizer, report, model_card(report), record)
    result = {"ece": report["calibration"]["ece"], "data": report["data"]}
    run_dir.emit("result", result={**main_figures(report), **result})


def report_final_accuracy(run_dir: RunDir, trainer: GroupTrainer, report: RewardReport) -> None:
    """Emit the accuracy of the report as the last point of the curve of held-out accuracy."""
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
    """Return the criteria that are rated in the train split. The whole data is read.

    Raises RecipeError if no criterion is rated.
    """
    train = (group for group in read_folder(run_dir.data) if group.split == "train")
    criteria = sorted(set().union(*map(rated_criteria, train)))
    if not criteria:
        raise RecipeError(
            "No ranking of the train split has ratings, so the criteria cannot be learned. Set "
            "criteria_weight to 0."
        )
    return criteria


def read_data(
    run_dir: RunDir, config: RewardConfig, chat: ChatFormat, limit: int, criteria: Sequence[str]
) -> Prepared:
    """Read and tokenize the data. If nothing can be used, RecipeError is raised with the reasons."""
    run_dir.stage("Reading the data")
    inputs_of = partial(loss_inputs, config=config, criteria=criteria)
    prepared = read_prepared(run_dir, chat, limit, inputs_of)
    prepared.make_weights_relative()
    if not prepared.tokens["train"]:
        lacking = "two readable responses that somebody compared"
        raise no_training_data(run_dir, prepared, lacking)
    return prepared


def report_data(run_dir: RunDir, prepared: Prepared, chat: ChatFormat, limit: int) -> None:
    figures = reports.split_counts(prepared.groups)
    length = "of any length" if limit >= UNLIMITED else f"at most {limit} tokens"
    run_dir.message(
        f"{figures['train']['prompts']} prompts to train on, {figures['test']['prompts']} held out; "
        f"written as {chat.name}, {length}."
    )
    reports.emit_agreement(run_dir, prepared.groups["test"])
    prepared.report_left_out(run_dir)


# --- parts of the training loop -------------------------------------------------------------------


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
            WatchHeldOut(lambda last: held_out_accuracy(model, prepared, steps.collator), events),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def held_out_accuracy(
    model: RewardModel, prepared: Prepared, collator: Collator
) -> dict[str, float]:
    """Return the accuracy on the first WATCHED_GROUPS held-out groups, or {} without strict pairs."""
    outputs = score_all(model, prepared.tokens["test"][:WATCHED_GROUPS], collator)
    groups = prepared.groups["test"][: len(outputs)]
    scores = [output[:, : model.heads].mean(axis=-1) for output in outputs]
    share = reports.agreeing_share(
        [reports.order_tally(g, s) for g, s in zip(groups, scores, strict=True)]
    )
    return {} if share is None else {"test_accuracy": share}


# --- scoring --------------------------------------------------------------------------------------


def score_held_out(
    model: RewardModel, prepared: Prepared, collator: Collator, stop: StopSignal
) -> list[reports.Scored]:
    tokens = prepared.tokens["test"]
    outputs = score_all(model, tokens, collator, stop)
    scored = []
    for group, output, token_group in zip(prepared.groups["test"], outputs, tokens, strict=True):
        heads, criteria = output[:, : model.heads], output[:, model.heads :]
        lengths = token_group.lengths()
        scored.append(reports.Scored(group, heads.mean(axis=-1), lengths, heads, criteria))
    return scored


RECIPE = train
"""The recipe that `python -m recipes.preflight` rehearses."""


if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__ or ""))
