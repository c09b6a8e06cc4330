"""The machine under measurement: its memory and name, and the measured commit.

Benchmarks without torch import this module too, so torch is imported inside functions.
"""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def reset_peak() -> None:
    """Reset the peak of memory; on Linux, also return freed memory to the system."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the peak of memory since `reset_peak`, including all weights; 0 on other systems."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if sys.platform != "linux":
        return 0.0
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return round(int(line.split()[1]) / 2**10, 1)


def hardware(device: str) -> dict[str, Any]:
    import torch

    load = round(os.getloadavg()[0], 2)
    about = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "load_1min": load}
    if device == "cuda":
        return {"gpu": torch.cuda.get_device_name(), **about}
    return {"cpu": cpu_name(), **about}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit(*measured: str) -> str | None:
    """Return the current commit, with a + if the `measured` files or folders differ from it."""
    paths = measured or ("benchmarks/*.py", "reward/training")
    changed = git("status", "--porcelain", "--", *paths)
    return git("rev-parse", "HEAD") + ("+" if changed else "") or None


def git(*words: str) -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
