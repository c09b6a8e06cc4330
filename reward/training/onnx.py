"""Export a reward model to ONNX, so that it can be used without torch.

    python -m reward.training.onnx RUN_DIR

reads   run.json (config: reward.settings.OnnxConfig), the files of the reward model, optionally
        data/preferences.parquet, whose held-out prompts are scored for the comparison
writes  output/: model.onnx, the tokenizer, chat.json, report.json and a README with code that scores

The graph reads `input_ids` and `attention_mask`, (rows, tokens) int64 each, and returns `score`, (rows,)
float32. Rows are padded on the right. The number of rows and their length are free. LoRA and several
heads are merged as in `merge.py`, and the graph computes in float32. The folder is published only if a
new process, which reads only the written files, gets the same tokens from the tokenizer and the same
scores from onnxruntime (`onnx_check.py`).

Deliberately not implemented:
- half precision and quantization: the tools of onnxruntime do both, from this file
- the scores of single criteria
"""

import importlib.util
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from recipes.errors import RecipeError
from recipes.models.chat_format import BOUNDARIES, CONTROL_TOKENS, ChatFormat
from recipes.models.chat_options import ChatRecord, read_options
from recipes.preferences.groups import PreferenceError, read_folder
from recipes.publishing.checking import number_from_new_process
from recipes.rundir import RunDir, write_json
from recipes.runner import provenance, run_recipe
from recipes.stopping import StopSignal
from reward.evaluation.schema import RewardReport
from reward.settings import OnnxConfig
from reward.training.card import onnx_card
from reward.training.merge import load, scores_of, unloaded, with_one_label
from reward.training.models.reward_model import load_tokenizer
from reward.training.onnx_check import GRAPH, INPUTS, OUTPUT
from reward.training.score import read_report

TOLERANCE = 1e-4
"""The largest difference between two scores, relative to the largest score if that is above 1."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TEXTS = 16
"""The maximum number of held-out responses that are compared."""
LONGEST_PROBE = 2048
"""The maximum number of random tokens in the longest row of the comparison."""
LARGEST_FILE = 1_500_000_000
"""The largest number of bytes of weights in the file of the graph. A file of ONNX is limited to 2 GB."""
CONVERSATIONS = (
    ("What makes a good cup of tea?", "Fresh water, just off the boil, and four minutes of patience."),
    ("Wie hält ein Fahrrad das Gleichgewicht?", "Durch Lenken: Es fährt unter seinen Schwerpunkt."),
    ("用一句话介绍长城。", "长城是中国古代的防御工程。"),
    ("Write a loop in Python.", "```python\nfor n in range(3):\n    print(n)\n```"),
    ("👋", "Hello! 😊"),
    ("Yes or no?", "No"),
)  # fmt: skip
"""Conversations that are always compared: several scripts, code, and very short ones."""
CHECK = "reward.training.onnx_check"
"""The module that returns the largest difference of the scores, computed from the written files only."""


def export(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    started = time.monotonic()
    config = OnnxConfig.from_dict(run_dir.spec()["config"])
    refuse_missing_packages()
    folder = Path(config.reward_model)
    trained = read_report(folder)
    run_dir.stage("Loading the model")
    tokenizer = load_tokenizer(str(folder), adapter=True)
    tokenizer.padding_side = "right"
    chat = ChatFormat(tokenizer, read_options(folder, tokenizer))
    model = load(folder, trained, tokenizer)
    stop.check()
    run_dir.stage("Computing the scores")
    limit = trained["training"]["max_tokens"]
    rows = rows_of(run_dir, chat, limit)
    for row in rows:
        row["score"] = score_of(model, row["ids"])
    stop.check()
    with run_dir.publish() as draft, comparison_file(run_dir) as comparison:
        run_dir.stage("Exporting")
        write_graph(with_one_label(unloaded(model.ordinary), model.heads), draft)
        tokenizer.save_pretrained(draft)
        if record := ChatRecord.read(folder):
            record.write(draft)
        del model
        stop.check()
        run_dir.stage("Comparing the scores of onnxruntime, in a new process")
        write_json(comparison, {"special": not chat.template, "rows": rows})
        difference = number_from_new_process("The export", CHECK, draft, comparison)
        check(difference, max(abs(row["score"]) for row in rows))
        report = {
            "kind": "onnx",
            "reward_model": config.reward_model,
            "difference": difference,
            "tolerance": TOLERANCE,
            "texts": sum(row["text"] is not None for row in rows),
            "longest": max(len(row["ids"]) for row in rows),
            "max_tokens": limit,
            "base_model": trained["base_model"],
            "chat": trained.get("chat"),
            **provenance(run_dir, config, started=started),
        }
        write_json(draft / "report.json", report)
        (draft / "README.md").write_text(onnx_card(report, cast(RewardReport, trained)))
    names = ("difference", "tolerance", "texts", "longest")
    run_dir.emit("result", result={name: report[name] for name in names})


def refuse_missing_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(
            f"The export needs the packages {', '.join(missing)}, which are not installed. Install them "
            "where this run is executed: pip install --constraint constraints.txt --editable '.[onnx]'"
        )


# --- the texts ------------------------------------------------------------------------------------


def rows_of(run_dir: RunDir, chat: ChatFormat, limit: int) -> list[dict[str, Any]]:
    """Return the rows to compare, each with the `text` of a conversation and its `ids`.

    The last row has random tokens instead of a text. It is the longest, so that sliding windows and
    position tables are compared too.
    """
    conversations = [([{"role": "user", "content": q}], answer) for q, answer in CONVERSATIONS]
    rows = [
        *some_rows(held_out(run_dir), chat, limit, TEXTS),
        *some_rows(conversations, chat, limit, TEXTS),
    ]
    if not rows:
        raise RecipeError(
            "There is no text to compare on: the chat template refuses every conversation, or all are "
            f"longer than the {limit:,} tokens that the model reads."
        )
    return [*rows, {"text": None, "ids": random_ids(chat.tokenizer, min(limit, LONGEST_PROBE))}]


def held_out(run_dir: RunDir) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Yield the first response to each held-out prompt, or to each prompt if none is held out."""
    if not any(run_dir.data.glob("*.parquet")):
        return
    try:
        groups = [group for group in read_folder(run_dir.data) if group.responses]
    except PreferenceError as error:
        raise RecipeError(str(error)) from error
    for group in [group for group in groups if group.split == "test"] or groups:
        yield group.prompt, group.responses[0]


def some_rows(
    conversations: Any, chat: ChatFormat, limit: int, count: int
) -> Iterator[dict[str, Any]]:
    """Yield at most `count` rows.

    Conversations that the template refuses and those that are too long are left out. So are those with
    control tokens in their text, or a token that spans prompt and response, because only Tiebreak
    reads them as in training.
    """
    for prompt, response in conversations:
        if not count:
            return
        try:
            encoded = chat.read(prompt, [response])
            shared, (tail,) = chat.split(prompt, [response])
        except ValueError:
            continue
        ids = [*encoded.prompt.tolist(), *encoded.responses[0].tolist()]
        if encoded.notes[CONTROL_TOKENS] or encoded.notes[BOUNDARIES] or not 0 < len(ids) <= limit:
            continue
        count -= 1
        yield {"text": shared + tail, "ids": ids}


def random_ids(tokenizer: Any, count: int) -> list[int]:
    """Return random tokens without padding, the same in each call."""
    ids = torch.randint(len(tokenizer), (count,), generator=torch.Generator().manual_seed(0))
    pad = tokenizer.pad_token_id
    return ids.masked_fill(ids == pad, (pad + 1) % len(tokenizer)).tolist()


def score_of(model: Any, ids: list[int]) -> float:
    """Return the score of one conversation, computed by adapter and base without padding."""
    row = torch.tensor([ids])
    inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    return scores_of(model.ordinary, inputs, model.heads).item()


# --- the graph ------------------------------------------------------------------------------------


class Scores(nn.Module):
    """The exported function: from padded rows of tokens, (rows, tokens), to scores, (rows,)."""

    def __init__(self, classifier: Any):
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        options = {"use_cache": False} if hasattr(self.classifier, "score") else {}
        outputs = self.classifier(input_ids=input_ids, attention_mask=attention_mask, **options)
        return outputs.logits.float()[:, 0]


def write_graph(classifier: Any, folder: Path) -> None:
    """Write the graph of a classifier with one label. Raises RecipeError if it cannot be exported."""
    classifier.set_attn_implementation("eager")
    scores = Scores(classifier).eval()
    # Sizes above 1, because an exporter takes a size of 1 for a constant.
    ids = torch.arange(2 * 6).reshape(2, 6) % 5 + 1
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    sizes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    weights = sum(p.numel() * p.element_size() for p in classifier.parameters())
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                scores,
                (ids, mask),
                folder / GRAPH,
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                dynamic_shapes=(sizes, sizes),
                external_data=weights > LARGEST_FILE,
                dynamo=True,
                verbose=False,
            )
    except RuntimeError as error:  # the errors of the exporter, and those of the traced model
        raise RecipeError(
            f"Models of the family {classifier.config.model_type} cannot be exported to ONNX by this "
            f"version of torch: {first_reason(error)} Use another base model, or use the model with "
            "transformers (manage.py merge_reward)."
        ) from error


def first_reason(error: BaseException) -> str:
    """Return the first line of the innermost cause of an error, as a sentence."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {line}"[:200].rstrip(".")
    return f"{text}."


# --- the comparison -------------------------------------------------------------------------------


@contextmanager
def comparison_file(run_dir: RunDir) -> Iterator[Path]:
    folder = run_dir.path / ".comparison"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder / "rows.json"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(difference: float, largest: float) -> None:
    """Raise RecipeError if the scores differ by more than rounding. A difference of NaN is refused."""
    if difference <= TOLERANCE * max(1.0, largest):
        return
    raise RecipeError(
        f"The scores of onnxruntime differ by {difference:.3g} from those of torch; at most {TOLERANCE:g} "
        "of the largest score is allowed. Nothing was published. Use the model with transformers instead "
        "(manage.py merge_reward)."
    )


if __name__ == "__main__":
    sys.exit(run_recipe(export, __doc__ or "", uses_gpu=False))
