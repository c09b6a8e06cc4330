"""Merge a reward model's adapter and heads into one plain folder that any tool loads.

    python -m reward.training.merge RUN_DIR OUT [--dtype bfloat16]

OUT is an ordinary `AutoModelForSequenceClassification` with one label: LoRA is added to the weights,
and several heads become one whose score is their mean, which is exact because they are linear in
the same features. Scores of single criteria are not kept. The merge is computed in float32 and
saved in `--dtype`; the folder is read back without PEFT, and appears only if it gives the scores
that adapter and base give together; else nothing is left behind.
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
from recipes.publishing import whole_folder
from recipes.rundir import write_json
from recipes.runner import quiet_libraries
from reward.evaluation.schema import RewardReport
from reward.training.card import model_card
from reward.training.model import load_reward_model, load_tokenizer
from reward.training.score import output_folder, read_report

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference of two scores that rounding explains, relative to the largest score."""
PROBE = (6, 32)
"""Rows and tokens of the random text that both are asked about."""


def merge(run: str | Path, out: str | Path, *, dtype: str = "float32") -> Path:
    """`run` is a run directory or its output/. Raises RecipeError, and writes nothing, when `out`
    exists, when `run` holds no reward model, or when the merged model disagrees."""
    out, folder = Path(out), output_folder(Path(run))
    with whole_folder(out) as draft:
        report = read_report(folder)
        tokenizer = load_tokenizer(str(folder), adapter=True)
        model = load(folder, report, tokenizer)
        probe = probe_texts(model.classifier, tokenizer.pad_token_id)
        wanted = scores_of(model.ordinary, probe, model.heads)
        merged = with_one_label(unloaded(model.ordinary), model.heads)
        merged.to(getattr(torch, dtype)).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        write_beside(draft, merged_report(report, dtype))
        check(draft, probe, wanted, dtype)
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
    """The mean of the first `heads` rows of the last layer becomes the only one."""
    if model.config.num_labels == 1:
        return model
    last = last_layer(model)
    last.weight = nn.Parameter(last.weight[:heads].mean(dim=0, keepdim=True))
    if last.bias is not None:
        last.bias = nn.Parameter(last.bias[:heads].mean(dim=0, keepdim=True))
    last.out_features = model.num_labels = model.config.num_labels = 1
    return model


def last_layer(model: Any) -> nn.Linear:
    """A decoder's `score`, or the last linear layer of an encoder's classifier."""
    backbone = f"{model.base_model_prefix}."
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and not name.startswith(backbone)
        and module.out_features == model.config.num_labels
    ]
    if not found:
        raise RecipeError(
            "The layer that gives the scores was not found; this family cannot be merged."
        )
    return found[-1]


def merged_report(report: dict[str, Any], dtype: str) -> dict[str, Any]:
    """What `reward.training.score` and the card read; the figures are those of the run."""
    config = {**report["config"], "lora_r": 0, "dtype": dtype}
    merged_from = {"lora_r": report["config"]["lora_r"], "outputs": report.get("outputs")}
    outputs = {"heads": 1, "criteria": []}
    return {**report, "config": config, "outputs": outputs, "merged_from": merged_from}


def write_beside(draft: Path, report: dict[str, Any]) -> None:
    write_json(draft / "report.json", report)
    (draft / "README.md").write_text(model_card(cast(RewardReport, report)))


# --- do both give the same scores? ----------------------------------------------------------------


def probe_texts(model: Any, pad_id: int) -> dict[str, torch.Tensor]:
    """The same random tokens each time, each row shorter than the one before and padded.  → PROBE"""
    rows, length = PROBE
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocabulary, PROBE, generator=torch.Generator().manual_seed(0))
    ids[ids == pad_id] = (pad_id + 1) % vocabulary
    lengths = torch.arange(length, 0, -(length // rows))[:rows]
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, pad_id), "attention_mask": mask}


@torch.no_grad()
def scores_of(model: Any, probe: dict[str, torch.Tensor], heads: int = 1) -> torch.Tensor:
    """→ (rows,)"""
    return model.eval()(**probe).logits.float()[:, :heads].mean(dim=-1)


def check(folder: Path, probe: dict[str, torch.Tensor], wanted: torch.Tensor, dtype: str) -> None:
    kind = getattr(torch, dtype)
    written = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=kind, trust_remote_code=False, use_safetensors=True
    )
    difference = (scores_of(written, probe) - wanted).abs().max().item()
    if not difference <= TOLERANCE[dtype] * max(1.0, wanted.abs().max().item()):
        raise RecipeError(
            f"The merged model's scores differ by {difference:.3g} from those of adapter and base, "
            "more than rounding explains. Nothing was written."
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a reward run's directory, or its output/")
    parser.add_argument("out", help="the folder to make")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32")
    asked = parser.parse_args()
    quiet_libraries()
    try:
        print(merge(asked.run, asked.out, dtype=asked.dtype))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
