"""The evaluation of an adapter on prompts that it was not trained on.

Legend: K responses of a prompt.
"""

from collections import Counter
from typing import cast

import numpy as np

from finetune.methods.method import Method
from finetune.report import HeldOutFigures, Likelihood
from finetune.statistics.likelihood import likelihood
from finetune.training.models.policy import PolicyModel
from recipes.layout.collate import Collator
from recipes.layout.forward import score_all
from recipes.preferences.pairs import PairOptions, pairs_of
from recipes.preferences.tokens import Prepared
from recipes.stopping import StopSignal
from reward.evaluation import report as reports
from reward.evaluation.schema import Quality

WATCHED_GROUPS = 100
"""The number of held-out prompts that are scored during training.

After the last step, all of them are scored, as in the report.
"""


class HeldOut:
    """The implicit rewards of the method on held-out prompts.

    `reference` has log π_ref of the responses to each prompt, (K,). The figures use the pairs that an
    export of the test split contains, in which one response has more evidence than the other.
    """

    def __init__(
        self,
        policy: PolicyModel,
        method: Method,
        prepared: Prepared,
        reference: list[np.ndarray],
        collator: Collator,
        stop: StopSignal,
    ):
        self.policy = policy
        self.method = method
        self.groups = prepared.groups["test"]
        self.tokens = prepared.tokens["test"]
        self.reference = reference
        self.collator = collator
        self.stop = stop
        self.pairs = [
            (index, pair)
            for index, group in enumerate(self.groups)
            for pair in pairs_of(group, PairOptions(), Counter())
        ]
        self.final: list[np.ndarray] | None = None
        """log π of the responses to all prompts after the last step, or None before that."""

    def watch(self, last: bool) -> dict[str, float]:
        """Return the figures of some prompts for the curve. After the last step, use all prompts."""
        logps = self.logps(None if last else WATCHED_GROUPS)
        self.final = logps if last else None
        figures = cast(dict[str, float], self.figures(logps, 0))
        return {f"held_out/{name}": value for name, value in figures.items()}

    def logps(self, most: int | None = None) -> list[np.ndarray]:
        """Return log π of the responses to the first `most` prompts, an array (K,) for each prompt."""
        outputs = score_all(self.policy, self.tokens[:most], self.collator, self.stop)
        return [output[:, 0].astype(float) for output in outputs]

    def rewards(self, logps: list[np.ndarray]) -> list[np.ndarray]:
        """Return the rewards of the responses to the first prompts, an array (K,) for each prompt."""
        rows = zip(logps, self.reference, self.tokens, strict=False)
        return [self.method.scores(after, before, g.lengths()) for after, before, g in rows]

    def likelihood(self, logps: list[np.ndarray], seed: int) -> Likelihood:
        rows = zip(self.groups, self.reference, logps, self.tokens, strict=False)
        return likelihood([(g, before, a, read.lengths()) for g, before, a, read in rows], seed)

    def figures(self, logps: list[np.ndarray], seed: int) -> HeldOutFigures:
        """Return the accuracy, the means over the pairs of these prompts, and the likelihood.

        As in the report, the accuracy is a share of judgments, not of pairs.
        """
        nll = self.likelihood(logps, seed)["after"]["value"]
        of_pairs = self.figures_of_pairs(self.rewards(logps))
        return of_pairs if nll is None else {**of_pairs, "nll": nll}

    def figures_of_pairs(self, rewards: list[np.ndarray]) -> HeldOutFigures:
        """Return the same as `figures`, without the likelihood. The result is empty without pairs."""
        rewarded = [(rewards[g], pair) for g, pair in self.pairs if g < len(rewards)]
        if not rewarded:
            return {}
        chosen = np.array([reward[pair.chosen] for reward, pair in rewarded])
        rejected = np.array([reward[pair.rejected] for reward, pair in rewarded])
        margins = chosen - rejected  # (pairs,)
        figures: HeldOutFigures = {
            "margins": float(margins.mean()),
            "chosen": float(chosen.mean()),
            "rejected": float(rejected.mean()),
            "loss": float(np.logaddexp(0.0, -margins).mean()),  # -log σ(margin)
        }
        rows = zip(self.groups, rewards, strict=False)
        accuracy = reports.agreeing_share([reports.order_tally(g, values) for g, values in rows])
        if accuracy is not None:
            figures["accuracy"] = accuracy
        return figures

    def report(self, seed: int) -> tuple[Quality, HeldOutFigures, Likelihood]:
        """Return the figures of the report, on all held-out prompts."""
        logps = self.logps() if self.final is None else self.final
        rows = zip(self.groups, self.rewards(logps), self.tokens, strict=True)
        scored = [reports.Scored(group, values, read.lengths()) for group, values, read in rows]
        figures = self.figures(logps, seed)
        return reports.quality(scored, seed), figures, self.likelihood(logps, seed)
