"""References to models, and the number formats in which they are loaded."""

from pathlib import Path

import torch


def split_reference(reference: str) -> tuple[str, str | None]:
    """Return (repo, revision) of `repo@revision`. A folder's name may contain an @."""
    if Path(reference).is_dir() or "@" not in reference:
        return reference, None
    name, revision = reference.rsplit("@", 1)
    return name, revision


def torch_dtype(name: str) -> torch.dtype:
    if name == "auto":
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if bf16 else torch.float32
    return getattr(torch, name)
