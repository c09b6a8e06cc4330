"""The rehearsals of a run: their settings, their data and their models.

A rehearsal is a run of the same recipe with the same settings, except that

- the model has fewer layers,
- there are only a few prompts, among them the longest, in four steps of one or two forward passes,
- nothing is evaluated, and no checkpoint is written, before the last step.

Samples have their full length, because the memory depends on it.
"""

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch

from recipes.preferences.groups import write_groups
from recipes.preflight import sample
from recipes.preflight.forecast import Amounts, Measurement, Phase, Rehearsal
from recipes.preflight.rehearsal import DoesNotFit, in_own_process, rehearse
from recipes.preflight.shortening import local_folder, number_of_layers, shorten
from recipes.rundir import RunDir, link_or_copy

STEPS = 4
"""The number of steps. In the first ones, the resident size still grows."""
HELD_OUT = 4
LARGE = 1_000_000_000
"""The number of weights from which `gradient_checkpointing: auto` recomputes activations."""
NEVER = 1_000_000
SMALLER = "Out of memory with"
"""The beginning of the message of a run that goes on with smaller batches."""
NO_LIMIT = 10**9
WHOLE_MODEL = 4
"""The number of layers up to which a model is rehearsed with all of them."""
GPU_LAYERS = (2, 4)


@dataclass(frozen=True)
class Sources:
    """The folders of a run's model and adapter, and the number of the model's layers."""

    base: Path
    adapter: Path | None
    layers: int
    large: bool


def measure(
    run_dir: RunDir, module: str, scratch: Path, clock: Callable[[], float] = time.monotonic
) -> Measurement:
    """Rehearse a run, and return what was measured.

    `run_dir` has run.json and data/, and `scratch` is an empty folder. Raises RecipeError for a run
    that would fail, and DoesNotFit if a rehearsal runs out of memory.
    """
    importlib.import_module(module)  # so that all processes begin with the same imports
    spec = run_dir.spec()
    config = spec["config"]
    sources: Sources = in_own_process(_sources, config)
    device: tuple[str, float] = in_own_process(device_and_memory)
    amounts: tuple[Amounts, Amounts] = in_own_process(
        _write_data, run_dir.data, scratch / "preferences.parquet", config, sources
    )
    rehearsals = []
    imported, on_train = 0.0, True
    for layers in depths(sources.layers, on_gpu=device[0] != "CPU"):
        phases, imported, computed = in_own_process(
            _rehearse, spec, module, scratch / str(layers), sources, layers, clock
        )
        on_train = computed > amounts[1].test_responses
        rehearsals.append(Rehearsal(layers, phases))
    return Measurement(
        tuple(rehearsals),
        sources.layers,
        imported if device[0] == "CPU" else 0.0,
        *amounts,
        on_train,
        *device,
    )


def depths(layers: int, *, on_gpu: bool) -> tuple[int, ...]:
    """Return the numbers of layers of the rehearsals.

    The memory of torch on a GPU is exactly linear in the number of layers. On a CPU, the resident size
    also depends on how freed memory is used again, which differs in models of one or two layers. So
    the rehearsals there have a quarter and half of the layers.
    """
    if layers <= WHOLE_MODEL:
        return (layers,)
    if on_gpu:
        return GPU_LAYERS
    longer = max(WHOLE_MODEL, ceil(layers / 2))
    return (max(2, longer // 2), longer)


def device_and_memory() -> tuple[str, float]:
    """Return the name of the device of runs, and its memory in MiB, 0 if that is unknown."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return properties.name, properties.total_memory / 2**20
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return "CPU", min(pages * size / 2**20, _limit_of_group())


def _limit_of_group() -> float:
    """Return the limit on the memory of this process's control group in MiB, or infinity."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return int(text) / 2**20
    except (OSError, ValueError):
        return float("inf")


# --- in processes of their own --------------------------------------------------------------------


def model_setting(config: Mapping[str, Any]) -> str:
    """Return the name of the setting with the base model."""
    return "base_model" if "base_model" in config else "model"


def _sources(config: Mapping[str, Any]) -> Sources:
    base = local_folder(config[model_setting(config)])
    adapter = local_folder(config["adapter"]) if config.get("adapter") else None
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    return Sources(base, adapter, number_of_layers(base) or 1, size >= 2 * LARGE)


def _write_data(
    data: Path, file: Path, config: Mapping[str, Any], sources: Sources
) -> tuple[Amounts, Amounts]:
    per_step = batch_of(config)
    groups, whole, part = sample.choose(
        data,
        str(sources.base),
        int(config.get("max_length") or config.get("max_tokens") or NO_LIMIT),
        longest=min(per_step, int(config["micro_batch_size"])),
        count=prompts_of(config),
        held_out=HELD_OUT,
        only_prompts="samples_per_prompt" in config,
    )
    write_groups(file, groups)
    return whole, part


def batch_of(config: Mapping[str, Any]) -> int:
    """Return the number of prompts per step of a rehearsal: one or two forward passes."""
    micro = min(int(config["micro_batch_size"]), int(config["batch_size"]))
    return micro * min(2, int(config["batch_size"]) // micro)


def prompts_of(config: Mapping[str, Any]) -> int:
    """Return the number of training prompts of a rehearsal.

    Those of a method that samples fill one batch of the sampler.
    """
    prompts = STEPS * batch_of(config)
    if "samples_per_prompt" in config:
        per_batch = ceil(int(config["sampling_batch_size"]) / int(config["samples_per_prompt"]))
        return max(prompts, per_batch)
    return prompts


def settings_of(config: Mapping[str, Any], sources: Sources, folder: Path) -> dict[str, Any]:
    """Return the settings of a rehearsal, with the models in a folder."""
    changes: dict[str, Any] = {
        model_setting(config): str(folder / "model"),
        "epochs": 1,
        "batch_size": batch_of(config),
        "micro_batch_size": min(int(config["micro_batch_size"]), int(config["batch_size"])),
        "checkpoint_steps": NEVER,
    }
    if sources.adapter:
        changes["adapter"] = str(folder / "adapter")
    if config.get("gradient_checkpointing") == "auto":
        changes["gradient_checkpointing"] = "on" if sources.large else "off"
    fixed: dict[str, int | None] = {
        "evaluations": 0,
        "learning_curve": 0,
        "label_mistakes": 0,
        "rounds": 1,
    }
    fixed |= {"prompts_per_round": None, "steps": STEPS}
    changes |= {name: value for name, value in fixed.items() if name in config}
    return {**config, **changes}


def _rehearse(
    spec: Mapping[str, Any],
    module: str,
    folder: Path,
    sources: Sources,
    layers: int,
    clock: Callable[[], float],
) -> tuple[dict[str, Phase], float, int]:
    """Return the phases, the memory of the imports, and how many references were computed."""
    in_own_process(_write_models, sources, folder, layers)
    config = settings_of(spec["config"], sources, folder)
    run_dir = RunDir.create(folder / "run", {**spec, "config": config})
    link_or_copy(folder.parent / "preferences.parquet", run_dir.data / "preferences.parquet")
    phases, imported = rehearse(run_dir.path, module, clock)
    if smaller := [e["text"] for e in run_dir.events() if e.get("text", "").startswith(SMALLER)]:
        raise DoesNotFit(smaller[0])
    report = json.loads((run_dir.output / "report.json").read_text())
    return phases, imported, int(report["training"].get("reference_computed") or 0)


def _write_models(sources: Sources, folder: Path, layers: int) -> None:
    shorten(sources.base, folder / "model", layers, of=sources.layers)
    if sources.adapter:
        shorten(sources.adapter, folder / "adapter", layers, of=sources.layers)
