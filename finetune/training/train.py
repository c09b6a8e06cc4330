"""Fine-tune a LoRA adapter on ranked responses, by any method of finetune/methods/.

The kind of the run names the method: `dpo` is Direct Preference Optimization over whole rankings.
Each response is forwarded once. If the model family allows it, the prompt is forwarded once for all
its responses. The head is computed only at positions that predict a token of a response, in chunks.
The reference is the model before its first step. Its log-probabilities are computed once and cached
for other runs.

Deliberately not implemented:
- truncation: responses that are too long for the model are left out, counted and reported
- dropout: the reference has none, and a policy with dropout would differ from it before any training
- training of all weights: LoRA is nearly as good for preferences, and its adapters are small

Run the recipe on any machine that has a run directory. The same command resumes after a stop:

    python -m finetune.training.train RUN_DIR

RUN_DIR contains run.json, {"kind": "dpo", "config": {"model": "FOLDER or HUB NAME", …}}, with the
settings of the method, and data/*.parquet as described in recipes/preferences/groups.py. The recipe
adds events.jsonl, checkpoints/ and, at the end, output/ with the adapter (safetensors), the
tokenizer, report.json and the model card. The exit status is 0 if the run is done, 1 if it failed, 75
if it was stopped by SIGTERM after a checkpoint, and 76 if it must be started again because one of
several processes ran out of memory.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any, cast

from transformers import set_seed

from finetune.engines.sampled_text import Prompt
from finetune.methods.method import Method, method_named
from finetune.report import FinetuneReport
from finetune.settings import without_retired
from finetune.training.card import model_card
from finetune.training.fitting.trainer import Fitted, fit
from finetune.training.models.language_model import (
    PolicyChat,
    check_vocabulary,
    load_tokenizer,
    readable_length,
)
from finetune.training.models.policy import PolicyModel, make_policy
from finetune.training.sampling.watching import SampleAnswers
from recipes.errors import RecipeError
from recipes.machine import processes
from recipes.models.chat_options import ChatRecord, freeze
from recipes.preferences.tokens import Prepared, no_training_data, read_prepared
from recipes.publishing.output import publish
from recipes.rundir import RunDir
from recipes.runner import provenance, run_recipe
from recipes.stopping import StopSignal
from recipes.training.trainer import training_figures
from reward.evaluation import report as reports
from reward.evaluation.figures import main_figures


@dataclass(frozen=True)
class Setup:
    """The loaded model of a run with its tokenizer and its chat format.

    `limit` is the length of its longest sequence, in tokens.
    """

    method: Method
    tokenizer: Any
    policy: PolicyModel
    record: ChatRecord
    chat: PolicyChat
    limit: int
    started: float


def train(run_dir: RunDir, stop: StopSignal) -> None:
    setup = set_up(run_dir)
    method = setup.method
    run_dir.stage("Reading the data")
    prepared = read_data(run_dir, method, setup.chat, setup.limit)
    report_data(run_dir, method, prepared, setup.limit)
    groups = prepared.groups["test"] or prepared.groups["train"]
    watched = [Prompt(group.group_id, group.prompt) for group in groups]
    answers = SampleAnswers(run_dir, setup.policy, setup.chat, method.config, watched)
    fitted = fit(
        run_dir,
        method.config,
        method,
        setup.policy,
        setup.tokenizer,
        prepared,
        stop,
        callbacks=[answers],
    )
    if processes.rank():
        return
    publish_run(run_dir, setup, report_of(run_dir, setup, fitted, prepared))


def set_up(run_dir: RunDir) -> Setup:
    """Load the model, and freeze its chat template for the run. Raises RecipeError."""
    started = time.monotonic()
    method = method_of(run_dir)
    config = method.config
    tokenizer = load_tokenizer(config.model)
    run_dir.stage("Loading the model")
    set_seed(config.seed)
    policy = make_policy(config)
    check_vocabulary(policy.inner, tokenizer, config.model)
    record = freeze(run_dir, config, tokenizer, sources=(config.adapter, config.model))
    chat = PolicyChat(tokenizer, policy.inner.generation_config, record.options)
    limit = min(config.max_length, readable_length(policy.config) or config.max_length)
    return Setup(method, tokenizer, policy, record, chat, limit, started)


def publish_run(run_dir: RunDir, setup: Setup, report: FinetuneReport, *extra: str) -> None:
    """Write the output, and emit the result with its main figures and the `extra` figures."""
    card = model_card(report)
    publish(run_dir, setup.policy.ordinary, setup.tokenizer, report, card, setup.record)
    names = ("pairs", "prompts", "held_out", "likelihood", *extra)
    result = {name: cast(dict[str, Any], report)[name] for name in names}
    run_dir.emit("result", result={**main_figures(report), **result})


def method_of(run_dir: RunDir) -> Method:
    """Return the method that is named by the kind of the run, with its settings.

    A warning names settings of earlier versions that no longer have an effect.
    """
    spec = run_dir.spec()
    try:
        method = method_named(spec["kind"])
    except KeyError:
        raise RecipeError(f"There is no fine-tuning method {spec['kind']!r}.") from None
    values, retired = without_retired(spec["config"])
    if retired:
        run_dir.message(
            f"These settings of an earlier version have no effect any more: {', '.join(retired)}.",
            level="warning",
        )
    return method(method.settings.from_dict(values))


# --- data -----------------------------------------------------------------------------------------


def read_data(run_dir: RunDir, method: Method, chat: PolicyChat, limit: int) -> Prepared:
    """Return the groups. If there is nothing to train on, RecipeError is raised with the reasons."""
    prepared = read_prepared(run_dir, chat, limit, method.loss_inputs, method.objection)
    if not prepared.tokens["train"]:
        raise no_training_data(run_dir, prepared, method.lacking)
    method.prepare(prepared)
    return prepared


def report_data(run_dir: RunDir, method: Method, prepared: Prepared, limit: int) -> None:
    prompts = {split: len(groups) for split, groups in prepared.groups.items()}
    run_dir.message(
        f"{prompts['train']} prompts to train on, {prompts['test']} held out; at most {limit} tokens "
        "with a response."
    )
    for note in method.notes(prepared):
        run_dir.message(note)
    reports.emit_agreement(run_dir, prepared.groups["test"])
    prepared.report_left_out(run_dir)


# --- the report -----------------------------------------------------------------------------------


def report_of(run_dir: RunDir, setup: Setup, fitted: Fitted, prepared: Prepared) -> FinetuneReport:
    """Score the held-out prompts, and return the report of the trained model."""
    run_dir.stage(f"Scoring {len(prepared.tokens['test'])} held-out prompts for the report")
    method, policy = setup.method, setup.policy
    config, trainer, collator = method.config, fitted.trainer, fitted.collator
    quality, held_out, likelihood = fitted.held_out.report(config.seed)
    data = reports.split_counts(prepared.groups)
    return {
        "kind": method.name,
        "model": config.model,
        "adapter": config.adapter,
        "pairs": {split: counts["pairs"] for split, counts in data.items()},
        "prompts": {split: counts["prompts"] for split, counts in data.items()},
        "data": data,
        "left_out": prepared.account(),
        "chat": {**setup.record.to_dict(), "notes": prepared.text_notes()},
        **quality,
        "held_out": held_out,
        "likelihood": likelihood,
        "learned_from": method.learned_from(prepared),
        "training": {
            **training_figures(trainer, setup.limit),
            "processes": processes.count(),
            "layout": collator.layout,
            "layout_reason": fitted.layout_reason,
            "packed": collator.packed,
            "attention": policy.attends if collator.layout == "shared" else None,
            "head": "in parts" if policy.head else "own logits",
            "head_reason": fitted.head_reason,
            "recomputes": bool(getattr(policy.inner, "is_activation_checkpointing", False)),
            "reference_computed": fitted.reference_computed,
            "text_format": setup.chat.name,
        },
        "first_batch": fitted.first,
        **provenance(run_dir, config, started=setup.started),
    }


RECIPE = train
"""The recipe that `python -m recipes.preflight` rehearses."""


if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__ or ""))
