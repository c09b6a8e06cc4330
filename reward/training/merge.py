"""Merge the adapter and the heads of a reward model into a plain folder that any tool can load.

    python -m reward.training.merge RUN_DIR OUT [--dtype bfloat16]

OUT is a plain `AutoModelForSequenceClassification` with one label. LoRA is added to the weights.
Several heads become one head, whose score is their mean. This is exact, because the heads are linear
in the same features. The scores of single criteria are dropped. The merge is computed in float32 and
saved in `--dtype`. The folder is then loaded without PEFT, and kept only if it gives the same scores
as adapter and base.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from recipes.errors import RecipeError
from recipes.models.chat_options import ChatRecord
from recipes.publishing.output import whole_folder
from recipes.rundir import write_json
from recipes.runner import quiet_libraries
from reward.evaluation.schema import RewardReport
from reward.training.card import model_card
from reward.training.models.reward_model import load_reward_model, load_tokenizer
from reward.training.score import output_folder, read_report

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""The largest difference between two scores that counts as rounding, relative to the largest score."""
PROBE = (6, 32)
"""The numbers of rows and tokens of the random text that both models score."""


def merge(run: str | Path, out: str | Path, *, dtype: str = "float32") -> Path:
    """Merge the model in a run directory, or in its output/, into the folder `out`.

    If `out` exists, if `run` has no reward model, or if the merged model gives other scores,
    RecipeError is raised and nothing is written.
    """
    out, folder = Path(out), output_folder(Path(run))
    with whole_folder(out) as draft:
        report = read_report(folder)
        tokenizer = load_tokenizer(str(folder), adapter=True)
        model = load(folder, report, tokenizer)
        probe = probe_texts(model.classifier, tokenizer.pad_token_id)
        expected = scores_of(model.ordinary, probe, model.heads)
        merged = with_one_label(unloaded(model.ordinary), model.heads)
        merged.to(getattr(torch, dtype)).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        if record := ChatRecord.read(folder):
            record.write(draft)
        write_report(draft, merged_report(report, dtype))
        check(draft, probe, expected, dtype)
    return out


def load(folder: Path, report: dict[str, Any], tokenizer: Any) -> Any:
    outputs = report.get("outputs", {})
    heads, criteria = outputs.get("heads", 1), len(outputs.get("criteria", []))
    return load_reward_model(folder, tokenizer, "float32", heads=heads, criteria=criteria)


def unloaded(ordinary: Any) -> Any:
    if isinstance(ordinary, PeftModel):
        return ordinary.merge_and_unload(safe_merge=True)
    return ordinary


def with_one_label(model: Any, heads: int) -> Any:
    """Replace the rows of the last layer by the mean of the first `heads` rows."""
    if model.config.num_labels == 1:
        return model
    last = last_layer(model)
    last.weight = nn.Parameter(last.weight[:heads].mean(dim=0, keepdim=True))
    if last.bias is not None:
        last.bias = nn.Parameter(last.bias[:heads].mean(dim=0, keepdim=True))
    last.out_features = model.num_labels = model.config.num_labels = 1
    return model


def last_layer(model: Any) -> nn.Linear:
    """Return the layer `score` of a decoder, or the last linear layer of an encoder's classifier."""
    backbone = f"{model.base_model_prefix}."
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not name.startswith(backbone)
        and module.out_features == model.config.num_labels
    ]
    if not layers:
        raise RecipeError("This model family cannot be merged: no linear score layer was found.")
    return layers[-1]


def merged_report(report: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the report of the merged model, with the figures of the run."""
    config = {**report["config"], "lora_r": 0, "dtype": dtype}
    merged_from = {"lora_r": report["config"]["lora_r"], "outputs": report.get("outputs")}
    outputs = {"heads": 1, "criteria": []}
    return {**report, "config": config, "outputs": outputs, "merged_from": merged_from}


def write_report(draft: Path, report: dict[str, Any]) -> None:
    write_json(draft / "report.json", report)
    (draft / "README.md").write_text(model_card(cast(RewardReport, report)))


# --- comparison of scores -------------------------------------------------------------------------


def probe_texts(model: Any, pad_id: int) -> dict[str, torch.Tensor]:
    """Return random tokens in padded rows of decreasing length, with the shape PROBE.

    They are the same in each call.
    """
    rows, length = PROBE
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, PROBE, generator=torch.Generator().manual_seed(0))
    ids[ids == pad_id] = (pad_id + 1) % vocabulary
    lengths = torch.arange(length, 0, -(length // rows))[:rows]
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, pad_id), "attention_mask": mask}


@torch.no_grad()
def scores_of(model: Any, probe: dict[str, torch.Tensor], heads: int = 1) -> torch.Tensor:
    """Return the mean of the heads for each row, (rows,)."""
    return model.eval()(**probe).logits.float()[:, :heads].mean(dim=-1)


def check(folder: Path, probe: dict[str, torch.Tensor], expected: torch.Tensor, dtype: str) -> None:
    kind = getattr(torch, dtype)
    written = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=kind, trust_remote_code=False, use_safetensors=True
    )
    difference = (scores_of(written, probe) - expected).abs().max().item()
    if not difference <= TOLERANCE[dtype] * max(1.0, expected.abs().max().item()):
        raise RecipeError(
            f"The merged model's scores differ by {difference:.3g} from those of adapter and base, "
            "which is more than rounding. Nothing was written."
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a reward run's directory, or its output/")
    parser.add_argument("out", help="the folder to create")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32")
    options = parser.parse_args()
    quiet_libraries()
    try:
        print(merge(options.run, options.out, dtype=options.dtype))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
