"""Forecasts of memory and time before a run, compared with the run.

    python -m benchmarks.preflight                 all configurations, 15 minutes on an idle core
    python -m benchmarks.preflight --quick         one small configuration, under a minute
    python -m benchmarks.preflight --only dpo      configurations whose name begins with dpo
    python -m benchmarks.preflight --device cuda   larger models in bfloat16 on a GPU

For each configuration, the forecast is made first, as `--forecast` makes it: from rehearsals
with fewer layers and the longest prompts. Then the recipe runs to its end, and its peak memory and
time are measured. Models have random weights, so nothing is downloaded. All figures are increments
over a process that has imported the libraries: on the CPU of the resident size, on a GPU of the
memory that torch has reserved.

With `--clock cpu`, the seconds are those of the processor in the process, with one thread. Other
programs on the machine change them little.

Progress on stderr; the last line of stdout is one JSON object. Exit status: 0 if the targets are met,
otherwise 1.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.support.accelerator import commit, hardware
from benchmarks.support.gpu.world import make_model, random_groups
from finetune.methods.method import method_named
from recipes.preferences.groups import Group, Judgment, write_groups
from recipes.preflight.forecast import Forecast, Phase, forecast
from recipes.preflight.measuring import measure
from recipes.preflight.rehearsal import in_own_process, rehearse
from recipes.rundir import RunDir, versions
from recipes.runner import quiet_libraries
from reward.settings import RewardConfig

MEASURED = ("benchmarks/preflight.py", "recipes", "finetune", "reward")
MEMORY_TARGET, TIME_TARGET = 0.10, 0.25
LEAST_MB = 300
"""The smallest increment in MiB for which the target of the memory applies."""
LEAST_CASES = 12
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "model_type": "llama", "vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 704,
    },
    "vocabulary": {
        "model_type": "qwen2", "vocab_size": 65536, "hidden_size": 256, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 704,
        "tie_word_embeddings": True,
    },
    "135m": {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
        "tie_word_embeddings": True,
    },
    "reward": {
        "model_type": "llama", "vocab_size": 4096, "hidden_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 352,
    },
}  # fmt: skip
"""Small shapes, one with the head of a large vocabulary, and that of SmolLM2 135M."""
GPU_SHAPE = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
    "tie_word_embeddings": True,
}  # fmt: skip
"""Qwen2.5 0.5B, for all configurations on a GPU."""


@dataclass(frozen=True)
class Case:
    """A run: its kind, model and settings, and the texts of its prompts.

    Each prompt has `k` responses. Lengths are in characters, which are tokens of these models.
    """

    name: str
    kind: str
    shape: str = "small"
    prompts: int = 24
    k: int = 4
    prompt: int = 64
    response: int = 96
    settings: dict[str, Any] = field(default_factory=dict)


QUICK = {"batch_size": 4, "micro_batch_size": 2, "tokens_at_once": 1024, "evaluations": 1}
REWARD = {"batch_size": 8, "micro_batch_size": 4, "epochs": 1}
SAMPLED = {
    **QUICK, "micro_batch_size": 4, "max_new_tokens": 64, "samples_per_prompt": 4,
    "sampling_batch_size": 32,
}  # fmt: skip
GRADIENT = {
    "batch_size": 4, "micro_batch_size": 2, "evaluations": 1, "max_new_tokens": 64,
    "samples_per_prompt": 4, "sampling_batch_size": 16,
}  # fmt: skip
LONG: dict[str, Any] = {"prompt": 128, "response": 256, "prompts": 16}
CASES = (
    Case("dpo", "dpo", settings=QUICK),
    Case("dpo plain layout", "dpo", k=3, settings={**QUICK, "layout": "plain"}),
    Case("dpo large vocabulary", "dpo", shape="vocabulary", k=3, settings=QUICK),
    Case(
        "dpo checkpointing", "dpo", shape="vocabulary", **LONG,
        settings={
            **QUICK, "tokens_at_once": 4096, "max_length": 2048, "gradient_checkpointing": "on",
        },
    ),
    Case("dpo 135m", "dpo", shape="135m", prompts=12, k=2, settings={"evaluations": 1}),
    Case(
        "sft", "sft", prompts=40,
        settings={**QUICK, "batch_size": 12, "micro_batch_size": 6, "tokens_at_once": 2048},
    ),
    Case("kto", "kto", settings=QUICK),
    Case("best_of_n", "best_of_n", settings={**SAMPLED, "batch_size": 8, "micro_batch_size": 8}),
    Case("online", "online", prompts=16, settings={**SAMPLED, "rounds": 2}),
    Case("grpo", "grpo", prompts=16, settings=GRADIENT),
    Case("rloo", "rloo", prompts=16, settings=GRADIENT),
    Case("reward", "reward", settings=REWARD),
    Case("reward pairs", "reward", prompts=40, k=2, settings={**REWARD, "micro_batch_size": 8}),
    Case("reward all weights", "reward", shape="vocabulary", settings={**REWARD, "lora_r": 0}),
    Case("reward six responses", "reward", k=6, prompts=16, settings=REWARD),
    Case(
        "reward checkpointing", "reward", **LONG,
        settings={**REWARD, "gradient_checkpointing": True},
    ),
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    quiet_libraries()
    measured = commit(*MEASURED)  # first, because files may change during the run
    clock = time.process_time if options.clock == "cpu" else time.monotonic
    cases = earlier(options.resume, measured)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for case in chosen(options):
            if case.name in {row["case"] for row in cases}:
                continue
            cases.append(compare(on_device(case, options.device), Path(folder), options, clock))
            say(json.dumps(cases[-1]))
            if options.resume:
                with options.resume.open("a") as file:
                    file.write(json.dumps({"commit": measured, **cases[-1]}) + "\n")
    print(
        json.dumps(
            {
                "name": "preflight",
                "commit": measured,
                "hardware": hardware(options.device),
                "clock": options.clock,
                "versions": versions(),
                "summary": summary(cases),
                "cases": cases,
            }
        )
    )
    return 0 if options.quick or summary(cases)["met"] else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small configuration")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some configurations")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="default: wall")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--resume", type=Path, metavar="FILE",
        help="keep the result of each configuration in this file, and skip those in it",
    )  # fmt: skip
    parser.add_argument("--folder", type=Path, help="for the models; default: the system's")
    return parser.parse_args(argv)


def earlier(file: Path | None, measured: str | None) -> list[dict[str, Any]]:
    """Return the cases in the file of --resume that were measured at the same commit."""
    if file is None or not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if row.pop("commit") == measured]


def chosen(options: argparse.Namespace) -> list[Case]:
    if options.quick:
        return [replace(CASES[0], prompts=12)]
    return [
        case
        for case in CASES
        if not options.only or any(case.name.startswith(name) for name in options.only)
    ]


def on_device(case: Case, device: str) -> Case:
    """Return the case for a device. On a GPU, all have the same larger model and longer texts."""
    if device == "cpu":
        return case
    longer: dict[str, Any] = {"prompt": 4 * case.prompt, "response": 4 * case.response}
    settings = {**case.settings, "max_length": 4096}
    settings.pop("tokens_at_once", None)
    if case.kind == "reward":
        settings.pop("max_length")
    return replace(case, shape="gpu", settings=settings, **longer)


# --- one case -------------------------------------------------------------------------------------


def compare(
    case: Case, folder: Path, options: argparse.Namespace, clock: Callable[[], float]
) -> dict[str, Any]:
    """Return the forecast of a run, and the figures of the run itself."""
    say(case.name)
    module, config = program_of(case, folder, options.device)
    run_dir = new_run(folder / case.name.replace(" ", "-"), case, config)
    scratch = run_dir.path / "rehearsals"
    scratch.mkdir()
    began = time.monotonic()
    predicted = forecast(measure(run_dir, module, scratch, clock), case.kind, config)
    took = time.monotonic() - began
    shutil.rmtree(scratch)
    say(f"  predicted {predicted.increment_mb:.0f} MB, {predicted.seconds:.1f} s")
    phases, _ = in_own_process(rehearse, run_dir.path, module, clock)
    shutil.rmtree(run_dir.path)
    return figures(case, predicted, phases, took)


def figures(
    case: Case, predicted: Forecast, phases: dict[str, Phase], took: float
) -> dict[str, Any]:
    measured_mb = max(phase.peak_mb for phase in phases.values())
    measured_s = sum(phase.seconds for phase in phases.values())
    return {
        "method": case.kind,
        "case": case.name,
        "shape": case.shape,
        "settings": case.settings,
        "predicted_mb": round(predicted.increment_mb, 1),
        "measured_mb": round(measured_mb, 1),
        "memory_error": round(predicted.increment_mb / measured_mb - 1, 4),
        "predicted_s": round(predicted.seconds, 2),
        "measured_s": round(measured_s, 2),
        "time_error": round(predicted.seconds / measured_s - 1, 4),
        "largest_stage": predicted.largest,
        "forecast_took_s": round(took, 1),
    }


def summary(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how many cases meet the targets, and whether enough of them do."""
    large = [case for case in cases if case["measured_mb"] >= LEAST_MB]
    in_memory = [case for case in large if abs(case["memory_error"]) <= MEMORY_TARGET]
    in_time = [case for case in cases if abs(case["time_error"]) <= TIME_TARGET]
    return {
        "configurations": len(cases),
        "large": len(large),
        "memory_within_10_percent": len(in_memory),
        "time_within_25_percent": len(in_time),
        "met": len(in_memory) >= LEAST_CASES and len(in_time) == len(cases),
    }


def program_of(case: Case, folder: Path, device: str) -> tuple[str, dict[str, Any]]:
    """Return the module and the complete settings of a case. Its models are made at first use."""
    base = str(model(case.shape, folder, device))
    if case.kind == "reward":
        values = RewardConfig.from_dict({"base_model": base, **case.settings})
        return "reward.training.train", values.to_dict()
    method = method_named(case.kind)
    models = {"model": base}
    if method.reward_model:
        models["reward_model"] = str(reward_model(folder, device))
    return method.program, method.settings.from_dict({**models, **case.settings}).to_dict()


def model(shape: str, folder: Path, device: str) -> Path:
    path = folder / f"model-{shape}"
    if not path.exists():
        values = GPU_SHAPE if shape == "gpu" else SHAPES[shape]
        in_own_process(make_model, path, dict(values), device)
    return path


def reward_model(folder: Path, device: str) -> Path:
    """Return the folder of a small reward model, which is trained at first use."""
    path = folder / "reward-run"
    if not path.exists():
        base = str(model("reward", folder, device))
        config = RewardConfig.from_dict({"base_model": base, "epochs": 1}).to_dict()
        run_dir = new_run(path, Case("reward", "reward", prompts=16), config)
        in_own_process(rehearse, run_dir.path, "reward.training.train")
    return path / "output"


def new_run(path: Path, case: Case, config: dict[str, Any]) -> RunDir:
    run_dir = RunDir.create(path, {"kind": case.kind, "config": config})
    groups = random_groups(case.prompts, k=case.k, prompt=case.prompt, response=case.response)
    write_groups(run_dir.data / "preferences.parquet", map(with_line, groups))
    return run_dir


def with_line(group: Group) -> Group:
    """Return the group with a line in the middle of its ranking, which KTO reads."""
    ranking: Judgment = group.rankings[0]
    return replace(group, rankings=[replace(ranking, cut=len(ranking.tiers) // 2)])


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
