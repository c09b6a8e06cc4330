"""The sampling of an earlier commit, as a contender. It runs in a process of its own.

The process reads the model and the prompts from a folder. For each line on its standard input, it
samples all responses and prints one line of JSON: {"seconds", "peak_mb", "texts", "tokens"}. This file is
also the program of that process, in a checkout of that commit, with the same Python packages:

    python -P benchmarks/support/earlier_sampling.py FOLDER
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CASE = "case.json"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class EarlierSampling:
    """The earlier version on the model in `folder`. `case` has the settings, prompts and threads."""

    def __init__(self, checkout: Path, folder: Path, case: dict[str, Any]):
        (folder / CASE).write_text(json.dumps(case))
        self.turns: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(folder)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take_turn(self) -> dict[str, Any]:
        """Sample all responses once, and return the figures of this turn."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("turn\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"The earlier version failed with status {self.process.wait()}. See its output above."
            )
        return dict(json.loads(line))

    def close(self) -> None:
        self.process.communicate()  # the end of its input ends the process


# --- the process of the earlier version -------------------------------------------------------------


def main(folder: Path) -> None:
    import torch
    from finetune.recipe_config import GenerateConfig
    from finetune.sampled_text import Prompt
    from finetune.training.language_model import PolicyChat, load_for_sampling, load_tokenizer

    from finetune.training.sampling import plan, sample_batch  # type: ignore[attr-defined]

    # Libraries print to the standard output, which must contain only the figures.
    figures, sys.stdout = sys.stdout, sys.stderr
    case = json.loads((folder / CASE).read_text())
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    model = load_for_sampling(str(folder), None, case["settings"]["dtype"])
    chat = PolicyChat(load_tokenizer(str(folder)), model.generation_config)
    config = GenerateConfig(model=str(folder), **case["settings"])
    prompts = [Prompt(name, [{"role": "user", "content": text}]) for name, text in case["prompts"]]
    requests, _ = plan(prompts, chat, model.config, config)
    for _ in sys.stdin:
        reset_peak()
        clock = CLOCKS[case["clock"]]
        began = clock()
        sampled = sample_batch(model, chat, requests, config)
        seconds = clock() - began
        turn = {
            "seconds": seconds,
            "peak_mb": peak_mb(),
            "texts": {f"{answer.prompt_id}/{answer.sample}": answer.text for answer in sampled},
            "tokens": sum(answer.tokens for answer in sampled),
        }
        print(json.dumps(turn), file=figures, flush=True)


def reset_peak() -> None:
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the peak of memory since `reset_peak`, including all weights; 0 on other systems."""
    if sys.platform != "linux":
        return 0.0
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 2**10, 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
