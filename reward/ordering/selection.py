"""Which tasks to rank next: those that would teach a reward model the most. Pure numpy.

The score is r = θ·x with the features x of a response's last layer, and a reviewer prefers i to j
with probability σ(rᵢ − rⱼ) (Bradley and Terry). A ranking of a task is then worth the Fisher
information

    M = Σ_{i<j} w_ij (x_i − x_j)(x_i − x_j)ᵀ,    w_ij = σ(r_i − r_j)(1 − σ(r_i − r_j))

about θ, and the task chosen is the one that raises log det(A + M) most, where A is what is known
already: D-optimal design, which shrinks the volume of what θ may still be (Chaloner and Verdinelli
1995). Chosen one after the other, each with those before it counted as ranked, so that two tasks
that teach the same are not both in front. Log det is submodular: what was computed before bounds
what comes, and only the first few have to be computed anew (Minoux 1978); the order is exact.

Left out: that the features themselves move when LoRA trains the layers below, that the pairs of one
ranking are not independent, and how long a task takes to rank.

Legend: N tasks, K responses in the largest, D features. With L = diag(Σ_j w_ij) − w, M is XᵀLX.
"""

from dataclasses import dataclass

import numpy as np

LIKELY_GAP = 2.0
"""Before any ranking, scores of one prompt are expected to differ by about so much."""
AT_ONCE = 4096
RECHECKED = 64


@dataclass(frozen=True)
class Tasks:
    """features (N, K, D) and scores (N, K); `present` (N, K) is False where a task has fewer."""

    features: np.ndarray
    scores: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def of(cls, features: list[np.ndarray], scores: list[np.ndarray]) -> "Tasks":
        """From one (K, D) and one (K,) for each task, of whatever K."""
        widest = max((len(row) for row in scores), default=0)
        dims = features[0].shape[1] if features else 0
        x = np.zeros((len(scores), widest, dims))
        r = np.zeros((len(scores), widest))
        present = np.zeros((len(scores), widest), dtype=bool)
        for n, (row, said) in enumerate(zip(features, scores, strict=True)):
            x[n, : len(said)], r[n, : len(said)], present[n, : len(said)] = row, said, True
        return cls(x, r, present)

    def some(self, chosen: np.ndarray) -> "Tasks":
        return Tasks(self.features[chosen], self.scores[chosen], self.present[chosen])

    def laplacians(self) -> np.ndarray:
        """→ L (N, K, K)"""
        gaps = self.scores[:, :, None] - self.scores[:, None, :]
        likely = 1 / (1 + np.exp(-np.clip(gaps, -60, 60)))
        weights = likely * (1 - likely) * self.present[:, :, None] * self.present[:, None, :]
        weights[:, np.arange(gaps.shape[1]), np.arange(gaps.shape[1])] = 0
        return np.eye(gaps.shape[1]) * weights.sum(axis=2)[:, :, None] - weights

    def spread(self) -> float:
        """Mean squared distance of two responses to one prompt."""
        counts = self.present.sum(axis=1)
        middle = self.features.sum(axis=1) / np.maximum(counts, 1)[:, None]
        off = ((self.features - middle[:, None]) ** 2).sum(axis=2) * self.present
        usable = counts > 1
        if not usable.any():
            return 0.0
        return float((2 * off.sum(axis=1) / np.maximum(counts - 1, 1))[usable].mean())


def prior(tasks: Tasks) -> np.ndarray:
    """What is known before any ranking: that scores differ by LIKELY_GAP or so.  → A (D, D)"""
    spread = tasks.spread() or 1.0
    return np.eye(tasks.features.shape[2]) * spread / LIKELY_GAP**2


def information(tasks: Tasks, times: np.ndarray | float = 1.0) -> np.ndarray:
    """Σ M of tasks that were ranked, each so many `times` (N,).  → (D, D)"""
    weighed = tasks.laplacians() * np.broadcast_to(times, len(tasks))[:, None, None]
    found = np.zeros((tasks.features.shape[2],) * 2)
    for start in range(0, len(tasks), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        x = tasks.features[part]
        lx = weighed[part] @ x
        found += np.tensordot(x, lx, axes=([0, 1], [0, 1]))
    return found


@dataclass(frozen=True)
class Order:
    """`chosen` (N,) are places in the tasks, best first; `gains` (N,) in nats, in that order."""

    chosen: np.ndarray
    gains: np.ndarray
    known: np.ndarray  # A with those counted that were chosen greedily, (D, D)


def in_order(tasks: Tasks, known: np.ndarray, *, most: int) -> Order:
    """All tasks, the first `most` of them greedily and the rest by what each alone would add then.

    `known` is A (D, D), positive definite. Costs N·K·D² once and about `most` times RECHECKED·K·D².
    """
    laplacians, variance = tasks.laplacians(), np.linalg.inv(known)
    bounds = gains(tasks.features, laplacians, variance)
    left = np.ones(len(tasks), dtype=bool)
    chosen: list[int] = []
    worth: list[float] = []
    while len(chosen) < min(most, len(tasks)):
        best = _best(tasks.features, laplacians, variance, bounds, left)
        chosen.append(best)
        worth.append(float(bounds[best]))
        left[best] = False
        variance = _after(variance, tasks.features[best], laplacians[best])
        known = known + tasks.features[best].T @ laplacians[best] @ tasks.features[best]
    rest = np.flatnonzero(left)
    alone = gains(tasks.features[rest], laplacians[rest], variance)
    by_gain = np.argsort(-alone, kind="stable")
    places = np.concatenate([np.array(chosen, dtype=int), rest[by_gain]])
    return Order(places, np.concatenate([np.array(worth), alone[by_gain]]), known)


def gains(features: np.ndarray, laplacians: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """log det(A + M) − log det A = log det(I + L X A⁻¹ Xᵀ) of each task.  → (N,)"""
    found = np.empty(len(features))
    identity = np.eye(features.shape[1])
    for start in range(0, len(features), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        x = features[part]
        spread = (x @ variance) @ x.transpose(0, 2, 1)  # (n, K, K)
        found[part] = np.linalg.slogdet(identity + laplacians[part] @ spread)[1]
    return np.maximum(found, 0.0)


def _best(
    features: np.ndarray,
    laplacians: np.ndarray,
    variance: np.ndarray,
    bounds: np.ndarray,
    left: np.ndarray,
) -> int:
    """The task of the largest gain. `bounds` may be of earlier choices, and are brought up to date
    where that was needed to know.
    """
    fresh = np.zeros(len(bounds), dtype=bool)
    while True:
        open_bounds = np.where(left, bounds, -np.inf)
        best = int(open_bounds.argmax())
        if fresh[best]:
            return best
        stale = np.where(left & ~fresh, bounds, -np.inf)
        count = min(RECHECKED, int((left & ~fresh).sum()))
        first = np.argpartition(-stale, count - 1)[:count]
        bounds[first] = gains(features[first], laplacians[first], variance)
        fresh[first] = True


def _after(variance: np.ndarray, x: np.ndarray, laplacian: np.ndarray) -> np.ndarray:
    """(A + XᵀLX)⁻¹, by Woodbury's identity.  x (K, D) → (D, D)"""
    vx = variance @ x.T  # (D, K)
    inner = np.linalg.solve(np.eye(len(laplacian)) + laplacian @ (x @ vx), laplacian)
    updated = variance - vx @ inner @ vx.T
    return (updated + updated.T) / 2
