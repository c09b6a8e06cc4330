"""The check of a merged model, in a separate process that reads only the written files.

    python -m finetune.training.merge_check MODEL_FOLDER COMPARISON_FOLDER

finetune/training/merge.py writes a file for each text to COMPARISON_FOLDER. It contains the tokens
(`ids`), T `positions`, and the log-probabilities of the next token that base and adapter predict at
these positions (`tuned_TV`). The last word of the output is ‖merged − tuned‖.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune.training.models.language_model import check_vocabulary, load_model, load_tokenizer
from recipes.errors import RecipeError
from recipes.runner import quiet_libraries


@torch.no_grad()
def log_probabilities(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of the next token at T positions of one text, (T, V)."""
    logits_TV = model(input_ids=ids[None], use_cache=False).logits[0, positions]
    return logits_TV.float().log_softmax(dim=-1)


def distance(tuned_TV: torch.Tensor, other_TV: torch.Tensor) -> float:
    """Return ‖other − tuned‖: the root mean square of the differences of log-probabilities.

    The mean is over the positions. At each position, it is over the vocabulary, weighted by the
    probabilities of the tuned model. With equal weights, the result would mostly be the rounding of
    tokens that never occur.
    """
    weight_TV = tuned_TV.exp()
    squares_TV = torch.where(weight_TV > 0, weight_TV * (other_TV - tuned_TV) ** 2, 0.0)
    return float(squares_TV.sum(dim=-1).mean().sqrt())


def difference(folder: Path, comparison: Path) -> float:
    """Return ‖merged − tuned‖ over all texts. Raises RecipeError if the folder cannot be loaded."""
    merged = load_model(str(folder), "float32")
    check_vocabulary(merged, load_tokenizer(str(folder)), str(folder))
    squares = []
    for file in sorted(comparison.glob("*.safetensors")):
        text = load_file(file)
        merged_TV = log_probabilities(merged, text["ids"], text["positions"])
        squares.append(distance(text["tuned_TV"], merged_TV) ** 2)
    return float((sum(squares) / len(squares)) ** 0.5)


def main() -> int:
    quiet_libraries()
    try:
        print(difference(Path(sys.argv[1]), Path(sys.argv[2])))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
