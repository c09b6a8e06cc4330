"""The check of an export to ONNX, in a separate process that reads only the written files.

    python -m reward.training.onnx_check FOLDER ROWS.json

reward/training/onnx.py writes ROWS.json. It contains `special`, whether the tokenizer adds special
tokens to a text, and `rows`. A row has the `text` of a conversation or null, the `ids` of its tokens in
training, and its `score` by torch. The last word of the output is the largest difference of a score,
when each row is scored alone and when all rows are padded and scored together.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from recipes.errors import RecipeError
from recipes.runner import quiet_libraries

GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "score"


def difference(folder: Path, comparison: Path) -> float:
    """Return the largest difference of a score. Raises RecipeError if a text has other tokens."""
    import onnxruntime
    from transformers import AutoTokenizer

    content = json.loads(comparison.read_text())
    rows = content["rows"]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for row in rows:
        check_tokens(tokenizer, row, special=content["special"])
    try:
        session = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
        alone = [scores(session, [row["ids"]], tokenizer.pad_token_id)[0] for row in rows]
        together = scores(session, [row["ids"] for row in rows], tokenizer.pad_token_id)
    except Exception as error:  # onnxruntime raises many classes without a common base
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecipeError(f"onnxruntime cannot use the graph: {reason[:300]}") from error
    expected = np.array([row["score"] for row in rows])
    return float(np.abs(np.stack([alone, together]) - expected).max())


def check_tokens(tokenizer: Any, row: dict[str, Any], *, special: bool) -> None:
    """Raise RecipeError unless the tokenizer reads the text as in training."""
    if row["text"] is None:
        return
    ids = tokenizer(row["text"], add_special_tokens=special)["input_ids"]
    while len(ids) > len(row["ids"]) and ids[-1] == tokenizer.pad_token_id:
        ids.pop()  # an end token that is also the padding token
    if ids != row["ids"]:
        raise RecipeError("The saved tokenizer reads a text differently than in training.")


def scores(session: Any, rows: list[list[int]], pad: int) -> np.ndarray:
    """Return the scores, (rows,), of rows padded on the right."""
    length = max(map(len, rows))
    ids = np.full((len(rows), length), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))[0]


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
