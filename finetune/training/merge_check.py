"""The check of a merged model, in a separate process that reads only the written files.

    python -m finetune.training.merge_check MODEL_FOLDER COMPARISON_FOLDER

finetune/training/merge.py writes a file for each text to COMPARISON_FOLDER. It contains the tokens
(`ids`), T `positions`, and the log-probabilities of the next token that base and adapter predict at
these positions (`tuned_TV`). The last word of the output is ‖merged − tuned‖.
"""

import sys
from pathlib import Path

from safetensors.torch import load_file

from finetune.training.models.language_model import check_vocabulary, load_model, load_tokenizer
from finetune.training.models.merged_weights import distance, log_probabilities
from recipes.errors import RecipeError
from recipes.runner import quiet_libraries


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
