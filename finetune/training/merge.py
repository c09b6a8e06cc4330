"""Merge an adapter into its base: one plain folder that any tool loads without PEFT.

    python -m finetune.training.merge BASE ADAPTER OUT [--dtype bfloat16]

The merge is computed in float32 and saved in `--dtype`. The folder is read back, and appears only if
it predicts what base and adapter predict together; else nothing is left behind.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from finetune.training.language_model import add_adapter, load_model, load_tokenizer
from recipes.errors import RecipeError
from recipes.publishing import whole_folder
from recipes.runner import quiet_libraries

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference of two log-probabilities that rounding explains."""
PROBE = (4, 32)
"""Rows and tokens of the random text that both are asked about."""


def merge(base: str, adapter: str, out: str | Path, *, dtype: str = "float32") -> Path:
    """Raises RecipeError, and writes nothing, when `out` exists or the merged model disagrees."""
    out = Path(out)
    with whole_folder(out) as draft:
        tokenizer = load_tokenizer(base)
        model = add_adapter(load_model(base, "float32"), adapter)
        probe = probe_ids(model)
        wanted = predictions(model, probe)
        merged = model.merge_and_unload(safe_merge=True)
        merged.to(getattr(torch, dtype)).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        check(draft, probe, wanted, dtype)
    return out


def probe_ids(model: Any) -> torch.Tensor:
    """The same random tokens each time.  → PROBE"""
    vocabulary = model.get_input_embeddings().num_embeddings
    return torch.randint(vocabulary, PROBE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def predictions(model: Any, probe: torch.Tensor) -> torch.Tensor:
    return model(input_ids=probe, use_cache=False).logits.float().log_softmax(dim=-1)


def check(folder: Path, probe: torch.Tensor, wanted: torch.Tensor, dtype: str) -> None:
    written = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
    ).eval()
    likely = wanted > wanted.max(dim=-1, keepdim=True).values - 10  # the far tail is all rounding
    difference = (predictions(written, probe) - wanted)[likely].abs().max().item()
    if not difference <= TOLERANCE[dtype] * max(1.0, wanted[likely].abs().max().item()):
        raise RecipeError(
            f"The merged model disagrees with base and adapter by {difference:.3g} in "
            "log-probability, more than rounding explains. Nothing was written."
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="the model the adapter was trained on: folder or hub name")
    parser.add_argument("adapter", help="the adapter: a DPO run's output/")
    parser.add_argument("out", help="the folder to make")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32")
    asked = parser.parse_args()
    quiet_libraries()
    try:
        print(merge(asked.base, asked.adapter, asked.out, dtype=asked.dtype))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
