"""Train the tiny chat model in `demo/tiny_model/` on generated texts.

    python -m demo.build_model                 replace the model; about ten minutes on two cores
    python -m demo.build_model --out FOLDER    write the model to another folder

The recipe runs in a separate process, so this module does not import torch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from demo import world

SHIPPED = Path(__file__).with_name("tiny_model")
TEXTS = 48_000


def write_texts(path: Path, count: int, seed: int) -> None:
    with path.open("w") as lines:
        lines.writelines(json.dumps(text) + "\n" for text in world.texts(count, seed))


def build(out: Path, steps: int, seed: int, count: int = TEXTS) -> None:
    """Train the model and write it to `out`. Raises CalledProcessError if the recipe fails."""
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.jsonl"
        write_texts(texts, count, seed)
        recipe = [sys.executable, "-m", "finetune.training.tiny_model", str(texts), str(out)]
        subprocess.run([*recipe, "--steps", str(steps), "--seed", str(seed)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=SHIPPED,
        help="The folder to which the model is written (default: %(default)s).",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=3500,
        help="The number of training steps (default: %(default)s).",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="The seed of the texts and the model (default: 0)."
    )
    args = parser.parse_args()
    build(args.out, args.steps, args.seed)


if __name__ == "__main__":
    main()
