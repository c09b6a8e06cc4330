"""Merge an adapter into its base model: a plain folder that any tool loads without PEFT.

    python -m finetune.training.merge BASE ADAPTER OUT [--dtype bfloat16]

The merge is computed in float32 and saved in `--dtype`. The folder is read back, and appears only
if its predictions match those of base and adapter. Otherwise nothing is left behind.
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
"""Largest difference of log-probabilities due to rounding."""
PROBE = (4, 32)
"""Rows and tokens of the random text on which predictions are compared."""


def merge(base: str, adapter: str, out: str | Path, *, dtype: str = "float32") -> Path:
    """Merge the adapter and return `out`.

    Raises RecipeError, and writes nothing, if `out` exists or the merged model predicts something
    else.
    """
    out = Path(out)
    with whole_folder(out) as draft:
        tokenizer = load_tokenizer(base)
        model = add_adapter(load_model(base, "float32"), adapter)
        probe = probe_ids(model)
        expected = predictions(model, probe)
        merged = model.merge_and_unload(safe_merge=True)
        merged.to(getattr(torch, dtype)).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        check(draft, probe, expected, dtype)
    return out


def probe_ids(model: Any) -> torch.Tensor:
    """Return the same random tokens on each call, of shape PROBE."""
    vocabulary = model.get_input_embeddings().num_embeddings
    return torch.randint(vocabulary, PROBE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def predictions(model: Any, probe: torch.Tensor) -> torch.Tensor:
    return model(input_ids=probe, use_cache=False).logits.float().log_softmax(dim=-1)


def check(folder: Path, probe: torch.Tensor, expected: torch.Tensor, dtype: str) -> None:
    written = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
    ).eval()
    # Unlikely tokens are left out: their log-probabilities are mostly rounding.
    likely = expected > expected.max(dim=-1, keepdim=True).values - 10
    difference = (predictions(written, probe) - expected)[likely].abs().max().item()
    if not difference <= TOLERANCE[dtype] * max(1.0, expected[likely].abs().max().item()):
        raise RecipeError(
            f"The merged model differs from base and adapter by {difference:.3g} in "
            "log-probability, more than rounding explains. Nothing was written."
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="the model the adapter was trained on: folder or hub name")
    parser.add_argument("adapter", help="the adapter: a DPO run's output/")
    parser.add_argument("out", help="the folder to create")
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32")
    args = parser.parse_args()
    quiet_libraries()
    try:
        print(merge(args.base, args.adapter, args.out, dtype=args.dtype))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
