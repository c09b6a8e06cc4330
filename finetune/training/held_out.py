"""Evaluation of an adapter on prompts that it was not trained on."""

from typing import Any

import numpy as np
from trl import DPOTrainer

from finetune.settings import DPOSettings
from finetune.training.logps import group_logps
from recipes.preferences.pairs import Pair
from recipes.preferences.tokens import Prepared
from recipes.stopping import StopSignal
from reward.evaluation import report as reports


class HeldOut:
    """The implicit reward β·(log π - log π_ref) on held-out prompts."""

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
        self.final: list[np.ndarray] | None = None
        """The rewards of all prompts after the last step, once computed."""

    def rewards(self, most: int | None = None) -> list[np.ndarray]:
        """Return the rewards of the first `most` prompts, one array (K,) per prompt."""
        logps = group_logps(self.trainer, self.tokens[:most], self.stop)
        pairs = zip(logps, self.reference, strict=False)  # the reference covers all prompts
        return [self.config.beta * (policy - reference) for policy, reference in pairs]

    def accuracy(self, rewards: list[np.ndarray]) -> float:
        """Return the accuracy on these prompts, defined as in the report: by judgments of pairs."""
        rows = zip(self.groups, rewards, strict=False)
        return reports.agreeing_share([reports.order_tally(g, values) for g, values in rows]) or 0.0

    def figures(self, rewards: list[np.ndarray]) -> dict[str, float]:
        """Return the accuracy, and means over the strict pairs of these prompts.

        Empty without pairs.
        """
        rewarded = [(rewards[g], pair) for g, pair in self.pairs if g < len(rewards)]
        if not rewarded:
            return {}
        chosen = np.array([reward[pair.chosen] for reward, pair in rewarded])
        rejected = np.array([reward[pair.rejected] for reward, pair in rewarded])
        margins = chosen - rejected  # (pairs,)
        return {
            "accuracy": self.accuracy(rewards),
            "margins": float(margins.mean()),
            "chosen": float(chosen.mean()),
            "rejected": float(rejected.mean()),
            "loss": float(np.logaddexp(0.0, -margins).mean()),  # -log σ(margin)
        }

    def report(self) -> dict[str, Any]:
        rewards = self.rewards() if self.final is None else self.final
        rows = zip(self.groups, rewards, self.tokens, strict=True)
        scored = [reports.Scored(group, values, read.lengths()) for group, values, read in rows]
        return {**reports.quality(scored, self.config.seed), "held_out": self.figures(rewards)}
