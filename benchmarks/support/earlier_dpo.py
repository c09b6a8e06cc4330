"""The training step of the pairwise DPO recipe of an earlier commit, as a contender.

The step runs in a separate process in a checkout of that commit, with the same Python packages. The
process reads the model and the rows from a folder. For each line on its standard input, it takes two
steps and prints the time of the second. This file is also the program of that process:

    python -P benchmarks/support/earlier_dpo.py FOLDER
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

OPTIONS = ("clock", "compile", "device", "threads")
MODEL, ROWS, SETTINGS = "model.pt", "rows.json", "settings.json"


class EarlierDPO:
    """The earlier recipe on the given rows of pairs, with `at_once` pairs per forward pass."""

    def __init__(
        self,
        checkout: Path,
        model: Any,
        rows: Sequence[dict[str, Any]],
        at_once: int,
        options: argparse.Namespace,
        folder: Path,
    ):
        import torch

        folder.mkdir()
        torch.save(model, folder / MODEL)
        (folder / ROWS).write_text(json.dumps(rows))
        settings = {name: vars(options)[name] for name in OPTIONS} | {"at_once": at_once}
        (folder / SETTINGS).write_text(json.dumps(settings))
        self.seconds: list[float] = []
        self.last = 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(folder)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take_turn(self, *, warm_up: bool) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("turn\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"The earlier version failed with status {self.process.wait()}. See its output above."
            )
        self.last = float(line)
        if not warm_up:
            self.seconds.append(self.last)

    def close(self) -> None:
        self.process.communicate()  # the end of its input ends the process


# --- the process of the earlier version -------------------------------------------------------------


def main(folder: Path) -> None:
    import torch

    from benchmarks.reward_training import Contender

    # Libraries print to the standard output, which must contain only the times.
    times, sys.stdout = sys.stdout, sys.stderr
    options = argparse.Namespace(**json.loads((folder / SETTINGS).read_text()))
    if options.threads:
        torch.set_num_threads(options.threads)
    model = torch.load(folder / MODEL, weights_only=False)
    rows = json.loads((folder / ROWS).read_text())
    contender = Contender(make_trainer, model, rows, options, str(folder))
    for _ in sys.stdin:
        contender.take_turn(warm_up=False)
        print(contender.last, file=times, flush=True)


def make_trainer(model: Any, rows: list[Any], options: argparse.Namespace, folder: str) -> Any:
    """Return the trainer of the earlier recipe. The rows have log π_ref, as they had in a run."""
    from datasets import Dataset
    from trl import DPOConfig

    from benchmarks.reward_training import common_arguments, tokenizer

    recipe = import_module("finetune.training.trainer")
    # The class has the same code under an earlier name before commit 49f54d3.
    names = ("PretokenizedDPOTrainer", "ReadyDPOTrainer")
    trainer_class = next(getattr(recipe, name) for name in names if hasattr(recipe, name))
    trainer = trainer_class(
        model=model,
        args=DPOConfig(
            **common_arguments(options, folder),
            per_device_train_batch_size=options.at_once,
            gradient_accumulation_steps=len(rows) // options.at_once,
            data_seed=0,  # its sampler shuffles
            max_length=None,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(rows * 2),
        processing_class=tokenizer(),
    )
    trainer.precompute_ref_logps = True
    return trainer


if __name__ == "__main__":
    main(Path(sys.argv[1]))
