"""The choice of the tasks to rank next, which are those with the most information. Pure numpy.

Let x be the features of a response in the last layer and r = θ·x its score. A reviewer prefers i to j
with probability σ(rᵢ − rⱼ) (Bradley and Terry). Then a ranking of a task has the Fisher information

    M = Σ_{i<j} w_ij (x_i − x_j)(x_i − x_j)ᵀ,    w_ij = σ(r_i − r_j)(1 − σ(r_i − r_j))

about θ. The next task is the one with the largest log det(A + M), where A is the information so far.
This D-optimal design minimises the volume of the confidence region of θ (Chaloner and Verdinelli 1995).
Tasks are chosen one by one, and each chosen task counts as ranked, so that tasks with the same
information do not all come first. Because log det is submodular, a gain is never larger than at an
earlier choice. So only a few gains are computed again for each choice (Minoux 1978), and the order is
exact.

Not modelled: changes of the features when LoRA trains lower layers, dependence between the pairs of one
ranking, and the time to rank a task.

Legend: N tasks, K responses in the largest, D features. With L = diag(Σ_j w_ij) − w, M is XᵀLX.
"""

from dataclasses import dataclass

import numpy as np

LIKELY_GAP = 2.0
"""The expected difference between two scores of a prompt before there is any ranking."""
BATCH_SIZE = 4096
RECHECKED = 64


@dataclass(frozen=True)
class Tasks:
    """Features, (N, K, D), and scores, (N, K), of tasks.

    `present`, (N, K), is False after the last response of a task.
    """

    features: np.ndarray
    scores: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def of(cls, features: list[np.ndarray], scores: list[np.ndarray]) -> "Tasks":
        """Return tasks from the features, (K, D), and the scores, (K,), of each. K may differ."""
        widest = max((len(row) for row in scores), default=0)
        dims = features[0].shape[1] if features else 0
        x = np.zeros((len(scores), widest, dims))
        r = np.zeros((len(scores), widest))
        present = np.zeros((len(scores), widest), dtype=bool)
        for n, (row, values) in enumerate(zip(features, scores, strict=True)):
            count = len(values)
            x[n, :count], r[n, :count], present[n, :count] = row, values, True
        return cls(x, r, present)

    def some(self, chosen: np.ndarray) -> "Tasks":
        return Tasks(self.features[chosen], self.scores[chosen], self.present[chosen])

    def laplacians(self) -> np.ndarray:
        """Return L of each task, (N, K, K)."""
        gaps = self.scores[:, :, None] - self.scores[:, None, :]
        likely = 1 / (1 + np.exp(-np.clip(gaps, -60, 60)))
        weights = likely * (1 - likely) * self.present[:, :, None] * self.present[:, None, :]
        weights[:, np.arange(gaps.shape[1]), np.arange(gaps.shape[1])] = 0
        return np.eye(gaps.shape[1]) * weights.sum(axis=2)[:, :, None] - weights

    def spread(self) -> float:
        """Return the mean squared distance between two responses to a prompt."""
        counts = self.present.sum(axis=1)
        middle = self.features.sum(axis=1) / np.maximum(counts, 1)[:, None]
        off = ((self.features - middle[:, None]) ** 2).sum(axis=2) * self.present
        usable = counts > 1
        if not usable.any():
            return 0.0
        return float((2 * off.sum(axis=1) / np.maximum(counts - 1, 1))[usable].mean())


def prior(tasks: Tasks) -> np.ndarray:
    """Return A before any ranking, (D, D), with which scores differ by about LIKELY_GAP."""
    spread = tasks.spread() or 1.0
    return np.eye(tasks.features.shape[2]) * spread / LIKELY_GAP**2


def information(tasks: Tasks, times: np.ndarray | float = 1.0) -> np.ndarray:
    """Return Σ M of the tasks, (D, D). `times`, (N,), says how many rankings each task has."""
    weighted = tasks.laplacians() * np.broadcast_to(times, len(tasks))[:, None, None]
    total = np.zeros((tasks.features.shape[2],) * 2)
    for start in range(0, len(tasks), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        x = tasks.features[part]
        lx = weighted[part] @ x
        total += np.tensordot(x, lx, axes=([0, 1], [0, 1]))
    return total


@dataclass(frozen=True)
class Order:
    """The indices of the tasks, best first, `chosen`, (N,), and their gains in nats, `gains`, (N,)."""

    chosen: np.ndarray
    gains: np.ndarray
    precision: np.ndarray  # A after the tasks chosen greedily, (D, D)


def in_order(tasks: Tasks, precision: np.ndarray, *, most: int) -> Order:
    """Return all tasks in order.

    The first `most` tasks are chosen one by one. The others are ordered by their gains after these.
    `precision` is A, (D, D), which must be positive definite. This takes N·K·D² operations, and about
    RECHECKED·K·D² for each choice.
    """
    laplacians, variance = tasks.laplacians(), np.linalg.inv(precision)
    bounds = gains(tasks.features, laplacians, variance)
    open_tasks = np.ones(len(tasks), dtype=bool)
    chosen: list[int] = []
    chosen_gains: list[float] = []
    while len(chosen) < min(most, len(tasks)):
        best = _best(tasks.features, laplacians, variance, bounds, open_tasks)
        chosen.append(best)
        chosen_gains.append(float(bounds[best]))
        open_tasks[best] = False
        variance = _after(variance, tasks.features[best], laplacians[best])
        precision = precision + tasks.features[best].T @ laplacians[best] @ tasks.features[best]
    rest = np.flatnonzero(open_tasks)
    alone = gains(tasks.features[rest], laplacians[rest], variance)
    by_gain = np.argsort(-alone, kind="stable")
    indices = np.concatenate([np.array(chosen, dtype=int), rest[by_gain]])
    return Order(indices, np.concatenate([np.array(chosen_gains), alone[by_gain]]), precision)


def gains(features: np.ndarray, laplacians: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return log det(A + M) − log det A = log det(I + L X A⁻¹ Xᵀ) of each task, (N,)."""
    values = np.empty(len(features))
    identity = np.eye(features.shape[1])
    for start in range(0, len(features), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        x = features[part]
        spread = (x @ variance) @ x.transpose(0, 2, 1)  # (n, K, K)
        values[part] = np.linalg.slogdet(identity + laplacians[part] @ spread)[1]
    return np.maximum(values, 0.0)


def _best(
    features: np.ndarray,
    laplacians: np.ndarray,
    variance: np.ndarray,
    bounds: np.ndarray,
    open_tasks: np.ndarray,
) -> int:
    """Return the index of the open task with the largest gain.

    `bounds` has the gains from earlier choices. They are computed again, in place, where necessary.
    """
    fresh = np.zeros(len(bounds), dtype=bool)
    while True:
        open_bounds = np.where(open_tasks, bounds, -np.inf)
        best = int(open_bounds.argmax())
        if fresh[best]:
            return best
        stale = np.where(open_tasks & ~fresh, bounds, -np.inf)
        count = min(RECHECKED, int((open_tasks & ~fresh).sum()))
        first = np.argpartition(-stale, count - 1)[:count]
        bounds[first] = gains(features[first], laplacians[first], variance)
        fresh[first] = True


def _after(variance: np.ndarray, x: np.ndarray, laplacian: np.ndarray) -> np.ndarray:
    """Return (A + XᵀLX)⁻¹ by Woodbury's identity. x is (K, D), and the result is (D, D)."""
    vx = variance @ x.T  # (D, K)
    inner = np.linalg.solve(np.eye(len(laplacian)) + laplacian @ (x @ vx), laplacian)
    updated = variance - vx @ inner @ vx.T
    return (updated + updated.T) / 2
