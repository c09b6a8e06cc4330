"""Checks of the machine at the start of a run, and the description of its device in the report.

On a CPU, a run takes days instead of minutes, so a GPU that is present but not used is reported.
Missing parts of Triton or CUDA are reported before the data is read, not in the middle of the run.
"""

import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from recipes.errors import RecipeError
from recipes.machine import gpus, processes
from recipes.machine.gpus import Gpu
from recipes.models.references import torch_dtype
from recipes.report import Device
from recipes.rundir import RunDir

LEAST_FREE_MB = 1024
"""The least free memory of a GPU, in MiB. The CUDA context and its libraries need about as much."""
COMPILERS = ("gcc", "clang", "cc")


@dataclass(frozen=True)
class Machine:
    """Facts about a machine, from which it follows whether and how a run uses a GPU."""

    installed: tuple[Gpu, ...]
    visible: str | None
    """The value of CUDA_VISIBLE_DEVICES."""
    usable: bool
    """Whether torch can use a GPU."""
    toolkit: str | None
    """The CUDA version that torch was built for, or None if it was built without CUDA."""
    driver: tuple[int, int] | None
    """The newest CUDA version that the driver supports, or None if it reports none."""
    lacking: tuple[str, ...]
    """The parts that Triton needs to compile kernels and that are missing here."""


def examine() -> Machine:
    """Return the facts about this machine. nvidia-smi reports the GPUs, so no GPU memory is used."""
    return Machine(
        installed=tuple(gpus.installed()),
        visible=os.environ.get(gpus.VISIBLE),
        usable=torch.cuda.is_available(),
        toolkit=torch.version.cuda,
        driver=gpus.driver_cuda(),
        lacking=missing_for_triton(),
    )


def missing_for_triton() -> tuple[str, ...]:
    """Return the parts that Triton needs to compile kernels and that are missing here."""
    lacking = []
    compilers = filter(None, (os.environ.get("CC"), *COMPILERS))
    if not any(map(shutil.which, compilers)):
        lacking.append("a C compiler (install gcc, or set CC)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        lacking.append("the header Python.h (install python3-dev)")
    return tuple(lacking)


# --- the check at the start -----------------------------------------------------------------------


def check(run_dir: RunDir) -> None:
    """Report missing parts before the run begins. Raises RecipeError if the run would fail."""
    machine = examine()
    if problem := problem_of(machine, processes.local_rank()):
        raise RecipeError(problem)
    for warning in warnings_of(machine, processes.local_rank()):
        run_dir.message(warning, level="warning")


def problem_of(machine: Machine, local_rank: int = 0) -> str | None:
    """Return the reason why the run would fail later, as a sentence, or None."""
    if machine.usable:
        gpu = own_gpu(machine, local_rank)
        if gpu and gpu.free_mb is not None and gpu.free_mb < LEAST_FREE_MB:
            return (
                f"GPU {gpu.index} ({gpu.name}) has no memory left: {_memory(gpu)}. End the programs that "
                f"use it (nvidia-smi lists them), or choose another GPU with {gpus.VISIBLE}."
            )
        return None
    if machine.installed and not _hidden(machine) and _driver_is_too_old(machine):
        driver = ".".join(map(str, machine.driver or ()))
        return (
            f"The GPU driver supports CUDA {driver}, and the installed torch needs CUDA "
            f"{machine.toolkit}. Install a newer driver, or a torch built for CUDA {driver}. To train "
            f"on the CPU anyway, set {gpus.VISIBLE} to an empty value."
        )
    return None


def warnings_of(machine: Machine, local_rank: int = 0) -> list[str]:
    """Return sentences about a GPU that the run does not use, or cannot use fully."""
    if machine.installed and not machine.usable:
        names = ", ".join(sorted({gpu.name for gpu in machine.installed}))
        return [
            f"This run uses the CPU, although this machine has a GPU ({names}): {_why_unused(machine)}"
        ]
    if not machine.usable:
        return []
    warnings = []
    if machine.lacking:
        warnings.append(
            f"Triton cannot compile kernels, because it needs {' and '.join(machine.lacking)}. Runs that "
            "use FlexAttention or compiled layers will be refused."
        )
    gpu = own_gpu(machine, local_rank)
    if gpu and gpu.free_mb is not None and gpu.total_mb and gpu.free_mb < gpu.total_mb / 2:
        warnings.append(
            f"Other programs use most of the memory of GPU {gpu.index} ({gpu.name}): {_memory(gpu)}."
        )
    return warnings


def require_triton() -> None:
    """Raise RecipeError if Triton cannot compile kernels on this machine.

    This function is called before a model that needs such kernels is used.
    """
    if lacking := missing_for_triton():
        raise RecipeError(
            f"FlexAttention and compiled layers need {' and '.join(lacking)}, because Triton compiles "
            "their kernels on this machine."
        )


def own_gpu(machine: Machine, local_rank: int) -> Gpu | None:
    """Return the GPU that this process uses, or None if its name is unknown."""
    if machine.visible is None:
        names = [gpu.index for gpu in machine.installed]
    else:
        names = [name.strip() for name in machine.visible.split(",")]
    if local_rank >= len(names):
        return None
    return gpus.named(names[local_rank], list(machine.installed))


def _hidden(machine: Machine) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES hides all GPUs. CUDA ignores the entries after a -1."""
    return machine.visible is not None and machine.visible.split(",")[0].strip() in ("", "-1")


def _driver_is_too_old(machine: Machine) -> bool:
    """Return whether torch needs a newer major version of CUDA. Minor versions are compatible."""
    if machine.driver is None or machine.toolkit is None:
        return False
    return machine.driver[0] < int(machine.toolkit.partition(".")[0])


def _why_unused(machine: Machine) -> str:
    if _hidden(machine):
        return f"{gpus.VISIBLE} is empty."
    if machine.toolkit is None:
        return "the installed torch is built for the CPU only. Install a torch built for CUDA."
    return (
        f"torch cannot use it. Check the driver with nvidia-smi, and {gpus.VISIBLE} "
        f"({machine.visible or 'not set'})."
    )


def _memory(gpu: Gpu) -> str:
    return f"{gpu.free_mb:,} of {gpu.total_mb:,} MB are free"


# --- the report -----------------------------------------------------------------------------------


def device_of(dtype: str) -> Device:
    """Return the device and the number format that the setting `dtype` selects on this machine."""
    number_format = str(torch_dtype(dtype)).removeprefix("torch.")
    if torch.cuda.is_available():
        name, count = torch.cuda.get_device_name(), processes.count()
        return {"kind": "cuda", "name": name, "count": count, "dtype": number_format}
    return {"kind": "cpu", "name": "CPU", "count": processes.count(), "dtype": number_format}


def sentence_about(device: Device) -> str:
    count = f"{device['count']} × " if device["count"] > 1 else ""
    return f"Device: {count}{device['name']}. Number format: {device['dtype']}."
