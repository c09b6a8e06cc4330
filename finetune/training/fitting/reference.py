"""log π_ref of responses, which is computed before training and kept on disk for other runs.

The reference is the model before training. A new adapter does not change the model yet, so its
reference is the base model. If a run continues from an adapter, the reference has this adapter.

There is a cache file for each model and number format. The model is identified by a hash of its files,
or by its commit on the hub. For each response, the file contains a digest of the tokens and the
log-probability, but no text. So a resumed run, or a later run with some of the same responses, computes
only the missing log-probabilities. The folder `.reference` next to the run directories may be deleted
at any time.

Legend: K responses of a group, M responses in the cache.
"""

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from finetune.training.models.policy import PolicyModel
from recipes.layout.collate import Collator
from recipes.layout.forward import score_all
from recipes.machine import processes
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from recipes.training import checkpoints

FOLDER = ".reference"
DIGEST = 16
"""The length of a digest in bytes.

The probability that two of 10⁹ responses have the same digest is below 10⁻²⁰.
"""


class ReferenceCache:
    """The log-probabilities of one model on disk."""

    def __init__(self, run_dir: RunDir, key: str):
        self.run_dir = run_dir
        self.path = run_dir.whole.path.absolute().parent / FOLDER / f"{key}.npz"

    def read(self) -> dict[bytes, float]:
        """Return log π_ref by digest. If the file is missing or damaged, the result is empty."""
        if not self.path.exists():
            return {}
        with self._locked():
            return self._read()

    def _read(self) -> dict[bytes, float]:
        checkpoints.delete_if_damaged(self.run_dir, self.path)
        if not self.path.exists():
            return {}
        with np.load(self.path) as arrays:
            digests, logps = arrays["digests"], arrays["logps"]  # (M, 16) uint8, (M,) float32
        return {row.tobytes(): float(value) for row, value in zip(digests, logps, strict=True)}

    def add(self, logps: dict[bytes, float]) -> None:
        """Add log-probabilities. If the folder is not writable, they are not stored."""
        with suppress(PermissionError), self._locked():
            everything = {**self._read(), **logps}
            digests = np.frombuffer(b"".join(everything), dtype=np.uint8).reshape(-1, DIGEST)
            values = np.array(list(everything.values()), dtype=np.float32)
            with checkpoints.sealed(self.path) as draft, draft.open("wb") as file:
                np.savez(file, digests=digests, logps=values)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the cache against other runs while the file and its manifest are written."""
        self.path.parent.mkdir(exist_ok=True)
        with (self.path.parent / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def reference_logps(
    run_dir: RunDir,
    policy: PolicyModel,
    adapter: str | None,
    groups: Sequence[TokenGroup],
    collator: Collator,
    stop: StopSignal,
) -> tuple[list[np.ndarray], int]:
    """Return log π_ref of the responses of each group, (K,) float32, and how many were computed.

    Call this while the policy has the weights of the reference, in the number format of training.
    `adapter` is the one from which the run continues. Several processes share the work. Raises Stopped
    if the run was asked to stop.
    """
    cache = ReferenceCache(run_dir, _cache_key(policy, adapter))
    stored: dict[bytes, float] = processes.from_rank_0({} if processes.rank() else cache.read())
    digests = [
        [_digest(group.prompt, response) for response in group.responses] for group in groups
    ]
    missing = [g for g, row in enumerate(digests) if not all(digest in stored for digest in row)]
    if missing:
        own = missing[processes.rank() :: processes.count()]
        outputs = score_all(policy, [groups[g] for g in own], collator, stop)
        values = {
            digest: float(value)
            for g, output in zip(own, outputs, strict=True)
            for digest, value in zip(digests[g], output[:, 0], strict=True)
        }
        new = {digest: value for part in processes.gather(values) for digest, value in part.items()}
        stored |= new
        if not processes.rank():
            cache.add(new)
    logps = [np.array([stored[digest] for digest in row], dtype=np.float32) for row in digests]
    return logps, sum(len(digests[g]) for g in missing)


def _digest(prompt: np.ndarray, response: np.ndarray) -> bytes:
    content = hashlib.sha256(np.int32(len(prompt)).tobytes())
    content.update(np.ascontiguousarray(prompt, dtype=np.int32).tobytes())
    content.update(np.ascontiguousarray(response, dtype=np.int32).tobytes())
    return content.digest()[:DIGEST]


# --- the key of a model -----------------------------------------------------------------------------


def _cache_key(policy: PolicyModel, adapter: str | None) -> str:
    """Return the name of a cache, which identifies the model, the adapter and the number format."""
    base = policy.config.name_or_path
    parts = [_content(base, getattr(policy.config, "_commit_hash", None))]
    if adapter:
        parts.append(_content(adapter, None))
    quantized = bool(getattr(policy.inner, "is_quantized", False))
    text = " ".join([*parts, str(policy.inner.dtype), "nf4" if quantized else "whole"])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _content(reference: str, commit: Any) -> str:
    """Return a text that identifies the weights of a model.

    For a folder, it is the digest of its weights and configuration, and otherwise the name and commit
    on the hub.
    """
    folder = Path(reference)
    if not folder.is_dir():
        return f"{reference}@{commit}"
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    digests = [f"{file.name} {checkpoints.sha256(file)}" for file in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
