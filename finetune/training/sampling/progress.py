"""The progress of sampling: events, and the lengths of responses."""

from finetune.engines.engine import Sampled
from recipes.machine.memory import peak_memory_mb
from recipes.rundir import RunDir


def emit_progress(
    run_dir: RunDir, step: int, total: int, batch: list[Sampled], seconds: float
) -> None:
    tokens = sum(sampled.tokens for sampled in batch)
    run_dir.emit(
        "progress",
        step=step,
        total=total,
        epoch=round(step / total, 4),
        metrics=lengths(batch),
        tokens_per_s=round(tokens / max(seconds, 1e-6), 1),
        memory_mb=peak_memory_mb(),
    )


def lengths(batch: list[Sampled]) -> dict[str, float]:
    return {
        "mean_tokens": round(sum(s.tokens for s in batch) / len(batch), 2),
        "truncated": round(sum(s.truncated for s in batch) / len(batch), 4),
    }
