"""How well an adapter learned the preferences of prompts that it was not trained on."""

from typing import Any

import numpy as np
from trl import DPOTrainer

from finetune.pairs import Pair
from finetune.recipe_config import DPOSettings
from finetune.training.logps import group_logps
from reward.training import report as reports
from reward.training.tokens import Prepared
from reward.training.trainer_events import StopSignal


class HeldOut:
    """The implicit reward β·(log π - log π_ref) on prompts that were not trained on."""

    def __init__(
        self,
        trainer: DPOTrainer,
        prepared: Prepared,
        pairs: list[tuple[int, Pair]],
        reference: list[np.ndarray],
        config: DPOSettings,
        stop: StopSignal,
    ):
        self.trainer = trainer
        self.groups = prepared.groups["test"]
        self.tokens = prepared.tokens["test"]
        self.pairs = pairs
        self.reference = reference
        self.config = config
        self.stop = stop

    def rewards(self, most: int | None = None) -> list[np.ndarray]:
        """One (K,) array for each of the first `most` prompts."""
        logps = group_logps(self.trainer, self.tokens[:most], self.stop)
        pairs = zip(logps, self.reference, strict=False)
        return [self.config.beta * (policy - reference) for policy, reference in pairs]

    def figures(self, rewards: list[np.ndarray]) -> dict[str, float]:
        """Means over the strict pairs of these prompts; none where there are no pairs."""
        known = [(rewards[g], pair) for g, pair in self.pairs if g < len(rewards)]
        if not known:
            return {}
        chosen = np.array([reward[pair.chosen] for reward, pair in known])
        rejected = np.array([reward[pair.rejected] for reward, pair in known])
        margins = chosen - rejected
        return {
            "accuracies": float(((margins > 0) + 0.5 * (margins == 0)).mean()),
            "margins": float(margins.mean()),
            "chosen": float(chosen.mean()),
            "rejected": float(rejected.mean()),
            "loss": float(np.logaddexp(0.0, -margins).mean()),
        }

    def report(self) -> dict[str, Any]:
        rewards = self.rewards()
        rows = zip(self.groups, rewards, self.tokens, strict=True)
        scored = [reports.Scored(group, values, read.lengths()) for group, values, read in rows]
        return {**reports.quality(scored, self.config.seed), "held_out": self.figures(rewards)}
