"""Merge a LoRA adapter into its base model, in a plain folder that any tool can load without PEFT.

    python -m finetune.training.merge RUN_DIR

reads   run.json (config: finetune.settings.MergeConfig), optionally data/*.parquet
        (recipes/preferences/groups.py)
writes  output/: the weights (safetensors), tokenizer, chat.json, report.json and model card

The merge is computed in float32 on the CPU, from the full-precision weights of the base, and saved in
`output_dtype`. A new process then loads the folder and predicts the tokens of real text. This text
consists of responses to the held-out prompts of the run. If the run has no data, it is text that the
tuned model writes itself. The folder is published only if

    ‖merged − tuned‖ ≤ 5 % of ‖tuned − base‖

for the log-probabilities of the next token. So a merge that lost the adapter cannot pass the check,
because its difference would be 100 %. A number format that rounds the adapter away cannot pass either.

Deliberately not implemented:
- a GPU: each text is forwarded three times, which a CPU does in seconds to minutes
- quantized output: tools that serve quantized models convert full-precision weights themselves

Legend: T positions of a text, V vocabulary. Tensors carry their shape as a suffix: logps_TV.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from finetune.engines.engine import Request
from finetune.engines.sampled_text import Prompt, sample_seed
from finetune.settings import MergeConfig, SamplingConfig
from finetune.training.card import merged_card
from finetune.training.models.language_model import (
    PolicyChat,
    add_adapter,
    check_vocabulary,
    existing,
    load_model,
    load_tokenizer,
)
from finetune.training.models.merged_weights import (
    LARGEST_SHARE,
    distance,
    log_probabilities,
    with_merged_weights,
)
from finetune.training.sampling.seeded import sample_batch
from recipes.errors import RecipeError
from recipes.models.chat_options import ChatRecord, read_options
from recipes.models.loading import read_config
from recipes.preferences.groups import PreferenceError, read_folder
from recipes.publishing.checking import number_from_new_process
from recipes.rundir import RunDir, write_json
from recipes.runner import provenance, run_recipe
from recipes.stopping import StopSignal

TEXTS = 8
LONGEST = 512
"""The maximum number of tokens in a text. Longer texts are cut off for the comparison."""
POSITIONS = 32
"""The number of predictions that are compared in each text, spread over the response."""
QUESTIONS = (
    "What makes a good cup of tea?",
    "Write a short letter to a neighbour.",
    "Explain how a bicycle stays upright.",
    "Name three uses of a paper clip.",
)
"""Prompts to which the tuned model writes text if the run directory has no data."""
CHECK = "finetune.training.merge_check"
"""The module that returns ‖merged − tuned‖, computed from the written files only."""


@dataclass(frozen=True)
class Text:
    """The tokens of a text, and the positions at which predictions of the next token are compared."""

    ids: list[int]
    positions: list[int]


def merge(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    started = time.monotonic()
    config = MergeConfig.from_dict(run_dir.spec()["config"])
    run_dir.stage("Loading the model")
    tokenizer = load_tokenizer(config.model)
    base = load_full_precision(config.model)
    check_vocabulary(base, tokenizer, config.model)
    tuned = add_adapter(base, config.adapter)
    chat = PolicyChat(tokenizer, tuned.generation_config, read_options(config.adapter, tokenizer))
    stop.check()
    run_dir.stage("Computing what base and adapter predict")
    texts, source = texts_of(run_dir, tuned, chat)
    with comparison_folder(run_dir) as folder:
        effect = write_predictions(folder, tuned, texts)
        stop.check()
        run_dir.stage("Merging")
        merged, untied = with_merged_weights(tuned)
        notes = notes_on(config, untied=untied)
        for note in notes:
            run_dir.message(note)
        with run_dir.publish() as draft:
            merged.to(getattr(torch, config.output_dtype)).save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            if record := ChatRecord.read(config.adapter) or ChatRecord.read(config.model):
                record.write(draft)  # the merged model is served with the adapter's options
            del base, tuned, merged  # the new process loads the model again
            stop.check()
            run_dir.stage("Comparing the merged model with base and adapter, in a new process")
            difference = number_from_new_process("The merged model", CHECK, draft, folder)
            check(difference, effect, config.output_dtype)
            report = {
                "kind": "merge",
                "model": config.model,
                "adapter": config.adapter,
                "merged_vs_tuned": difference,
                "tuned_vs_base": effect,
                "share": difference / effect,
                "largest_share": LARGEST_SHARE,
                "texts": len(texts),
                "text_source": source,
                "notes": notes,
                **provenance(run_dir, config, started=started),
            }
            write_json(draft / "report.json", report)
            (draft / "README.md").write_text(merged_card(report))
    names = ("share", "merged_vs_tuned", "tuned_vs_base", "texts")
    run_dir.emit("result", result={name: report[name] for name in names})


# --- loading --------------------------------------------------------------------------------------


def load_full_precision(reference: str) -> Any:
    """Return the model in float32. Raises RecipeError if its published weights are quantized."""
    name, revision = existing(reference)
    try:
        quantized = getattr(read_config(name, revision), "quantization_config", None)
    except (OSError, ValueError):
        quantized = None  # load_model reports it
    if quantized:
        raise RecipeError(
            f"The weights of {reference} are quantized, and an adapter cannot be added to them without "
            "loss. Merge into the full-precision model that it was made from."
        )
    return load_model(reference, "float32")


def notes_on(config: MergeConfig, *, untied: bool) -> list[str]:
    notes = []
    if quantization := quantization_of(config.adapter):
        notes.append(
            f"The adapter was trained on weights quantized to {quantization}. It was merged into the "
            "full-precision weights, so answers differ slightly from those during training."
        )
    if untied:
        notes.append(
            "The base uses one matrix to read and to write tokens, and the adapter changes one of the "
            "two uses. The merged model has a matrix for each."
        )
    return notes


def quantization_of(adapter: str) -> str:
    """Return the quantization of the base during training, or "" if none is recorded."""
    try:
        config = json.loads((Path(adapter) / "report.json").read_text())["config"]
        quantization = str(config.get("quantize") or "none")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return ""
    return "" if quantization == "none" else quantization


# --- the text -------------------------------------------------------------------------------------


def texts_of(run_dir: RunDir, tuned: Any, chat: PolicyChat) -> tuple[list[Text], str]:
    """Return the texts for the comparison, and a phrase that says where they are from.

    Raises RecipeError if there is no text.
    """
    if texts := texts_of_data(run_dir, chat):
        return texts, "held-out prompts"
    if texts := own_texts(tuned, chat):
        return texts, "text by the tuned model"
    raise RecipeError(
        "There is no text to compare on: the chat template refuses every prompt. Put preference data "
        "in the folder data/ of the run directory."
    )


def texts_of_data(run_dir: RunDir, chat: PolicyChat) -> list[Text]:
    """Return the first response to each of the first held-out prompts.

    If no prompt is held out, training prompts are used.
    """
    if not any(run_dir.data.glob("*.parquet")):
        return []
    try:
        groups = [group for group in read_folder(run_dir.data) if group.responses]
    except PreferenceError as error:
        raise RecipeError(str(error)) from error
    held_out = [group for group in groups if group.split == "test"]
    pairs = ((group.prompt, group.responses[0]) for group in held_out or groups)
    return some_texts(pairs, chat)


def own_texts(tuned: Any, chat: PolicyChat) -> list[Text]:
    prompts = [Prompt(str(n), [{"role": "user", "content": q}]) for n, q in enumerate(QUESTIONS)]
    try:
        requests = [
            Request(
                prompt, chat.prompt_ids(prompt.messages), 0, sample_seed(0, prompt.prompt_id, 0)
            )
            for prompt in prompts
        ]
    except ValueError:
        return []
    sampled = sample_batch(tuned, chat, requests, SamplingConfig(max_new_tokens=64))
    pairs = (
        (prompt.messages, answer.text) for prompt, answer in zip(prompts, sampled, strict=True)
    )
    return some_texts(pairs, chat)


def some_texts(pairs: Iterator[tuple[Any, str]], chat: PolicyChat) -> list[Text]:
    """Return at most TEXTS texts, each a prompt with a response.

    Chats that the chat template refuses are left out.
    """
    texts: list[Text] = []
    for messages, response in pairs:
        try:
            prompt, (tokens,) = chat.encode(messages, [response])
        except ValueError:
            continue
        if len(tokens) == 0 or len(prompt) == 0:
            continue
        prompt = prompt[-(LONGEST // 2) :]
        ids = np.concatenate([prompt, tokens])[:LONGEST].tolist()
        # Position t predicts token t + 1. So the last position of the prompt predicts the first token
        # of the response.
        first, last = len(prompt) - 1, len(ids) - 2
        count = min(POSITIONS, last - first + 1)
        positions = np.linspace(first, last, count).round().astype(int).tolist()
        texts.append(Text(ids, positions))
        if len(texts) == TEXTS:
            break
    return texts


# --- the comparison -------------------------------------------------------------------------------


@contextmanager
def comparison_folder(run_dir: RunDir) -> Iterator[Path]:
    folder = run_dir.path / ".comparison"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_predictions(folder: Path, tuned: Any, texts: list[Text]) -> float:
    """Write the texts and the predictions of the tuned model for the new process.

    Return ‖tuned − base‖. Raises RecipeError if the adapter changes nothing, because the comparison
    could then not detect a lost adapter.
    """
    squares = 0.0
    for number, text in enumerate(texts):
        ids, positions = torch.tensor(text.ids), torch.tensor(text.positions)
        tuned_TV = log_probabilities(tuned, ids, positions)
        with tuned.disable_adapter():
            base_TV = log_probabilities(tuned, ids, positions)
        squares += distance(tuned_TV, base_TV) ** 2
        tensors = {"ids": ids, "positions": positions, "tuned_TV": tuned_TV}
        save_file(tensors, folder / f"{number}.safetensors")
    if not squares > 0:
        raise RecipeError(
            "The adapter changes nothing: with and without it, the model predicts the same. There is "
            "nothing to merge. Was it trained?"
        )
    return (squares / len(texts)) ** 0.5


def check(difference: float, effect: float, dtype: str) -> None:
    """Raise RecipeError unless the merged model predicts the same as base and adapter."""
    share = difference / effect
    if share <= LARGEST_SHARE:
        return
    advice = (
        "The written model has lost the adapter, or part of it. Check the disk and the package versions."
        if dtype == "float32"
        else f"{dtype} probably rounds a small adapter away. Choose float32."
    )
    raise RecipeError(
        f"The merged model differs from base and adapter by {share:.1%} of the adapter's effect; at "
        f"most {LARGEST_SHARE:.0%} is allowed. Nothing was published. {advice}"
    )


if __name__ == "__main__":
    sys.exit(run_recipe(merge, __doc__ or "", uses_gpu=False))
