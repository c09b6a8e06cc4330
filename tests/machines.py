"""Machines with GPUs, for tests: an nvidia-smi on the PATH that reports them."""

import os
from pathlib import Path
from typing import Any

GPU_MB = 143_771
USE, TEMPERATURE = 87, 64


def install_smi(
    monkeypatch: Any, folder: Path, *, gpus: int = 1, free_mb: int = GPU_MB, cuda: str = "12.8"
) -> None:
    """Put an nvidia-smi on the PATH that reports GPUs named NVIDIA H200 with the ids GPU-aa0, …"""
    row = f"NVIDIA H200, {GPU_MB}, {free_mb}, {USE}, {TEMPERATURE}"
    rows = "\n".join(f"{n}, GPU-aa{n}, {row}" for n in range(gpus))
    smi = folder / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        f"case \"$1\" in --query-gpu=*) printf '{rows}\\n' ;;\n"
        f"*) echo '| NVIDIA-SMI 570.1    Driver Version: 570.1    CUDA Version: {cuda} |' ;;\n"
        "esac\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
