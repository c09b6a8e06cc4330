"""The NVIDIA GPUs of this machine, as the driver reports them. Needs neither CUDA nor torch."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
SMI_SECONDS = 20
FIELDS = (
    "index", "uuid", "name", "memory.total", "memory.free", "utilization.gpu", "temperature.gpu",
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """A GPU. Its memory is in MiB, its use in percent of the time, and its temperature in °C.

    A value that the driver does not report is None.
    """

    index: str
    uuid: str
    name: str
    total_mb: int | None = None
    free_mb: int | None = None
    use: int | None = None
    temperature: int | None = None


def installed() -> list[Gpu]:
    """Return all GPUs of the machine, or an empty list if no driver responds."""
    table = _smi(f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    return [
        Gpu(index, uuid, name, *map(_whole_number, numbers))
        for index, uuid, name, *numbers in (row for row in rows if len(row) == len(FIELDS))
    ]


def driver_cuda() -> tuple[int, int] | None:
    """Return the newest CUDA version that the driver supports, or None if it reports none."""
    version = re.search(r"CUDA Version: (\d+)\.(\d+)", _smi())
    return (int(version[1]), int(version[2])) if version else None


def visible(gpus: list[Gpu]) -> list[str]:
    """Return the entries of CUDA_VISIBLE_DEVICES: the GPUs that programs started here may use.

    If the variable is not set, the result contains the ids of all `gpus`. Numbers would be ambiguous,
    because CUDA and the driver may number GPUs in different orders.
    """
    names = os.environ.get(VISIBLE)
    if names is None:
        return [gpu.uuid for gpu in gpus]
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


def named(name: str, gpus: list[Gpu]) -> Gpu | None:
    """Return the GPU for an entry of CUDA_VISIBLE_DEVICES: a number, or the beginning of an id."""
    if name.isdigit():
        return next((gpu for gpu in gpus if gpu.index == name), None)
    return next((gpu for gpu in gpus if gpu.uuid.startswith(name)), None)


def _smi(*arguments: str) -> str:
    path = shutil.which("nvidia-smi")
    if path is None:
        return ""
    try:
        process = subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=SMI_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout if process.returncode == 0 else ""


def _whole_number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
