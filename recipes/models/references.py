"""References to models, and the number formats in which they are loaded."""

from pathlib import Path

import torch

from recipes.errors import RecipeError

NATIVE_BFLOAT16 = (8, 0)
"""The first CUDA compute capability with bfloat16 in hardware (Ampere).

Earlier GPUs emulate bfloat16, which is slower than float32.
"""


def split_reference(reference: str) -> tuple[str, str | None]:
    """Return (repo, revision) of `repo@revision`. The name of a folder may contain an @."""
    if Path(reference).is_dir() or "@" not in reference:
        return reference, None
    name, revision = reference.rsplit("@", 1)
    return name, revision


def torch_dtype(name: str) -> torch.dtype:
    """Return the number format for the setting `dtype` on this machine.

    Raises RecipeError for float16 without a GPU, because there is no gradient scaler on a CPU.
    """
    return dtype_for(name, cuda_capability())


def cuda_capability() -> tuple[int, int] | None:
    """Return the compute capability of the GPU that this process uses, or None without CUDA."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def dtype_for(name: str, capability: tuple[int, int] | None) -> torch.dtype:
    """Return the number format for the setting `dtype` on a GPU of this compute capability."""
    if name == "float16" and capability is None:
        raise RecipeError(
            "dtype: float16 needs a CUDA GPU, and this machine has none. Set it to auto or float32."
        )
    if name != "auto":
        return getattr(torch, name)
    if capability is None:
        return torch.float32
    return torch.bfloat16 if capability >= NATIVE_BFLOAT16 else torch.float16
