"""The value of ties for a linear model, which is trained to the minimum of its loss.

The true score of an answer is linear in the words that it contains, its topics, repetitions and
surplus words. So a linear model with these features can represent it, and its only errors are those
of the rankings. It is trained with the losses of the product, to the minimum, with a ridge penalty.
The penalty is chosen on one half of the held-out prompts, and the figures are those of the other half.

    dropped          the strict pairs only; each ranking with one has the same weight
    dropped_equal    the strict pairs only; each pair has the same weight
    half             a tie is half a win for each response
    davidson         ties are an outcome (Davidson)
    rao_kupper       ties are an outcome (Rao and Kupper)
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import mean
from typing import Any

import numpy as np
import torch

from benchmarks.support.taste.data import strict
from benchmarks.support.taste.figures import interval
from benchmarks.support.taste.world import ASKERS, LENGTH, OWN_VALUE, VALUE, WORDS, Question, Taste
from finetune.engines.engine import Sampled
from recipes.preferences import loss
from recipes.preferences.groups import Group, strict_wins, wins
from recipes.preferences.loss_inputs import tie_share

RIDGES = (3e-4, 1e-3, 3e-3, 1e-2)
Loss = Callable[[torch.Tensor], torch.Tensor]
"""Scores, (G, K) → the loss of each ranking, (G,)."""
World = tuple[Taste, list[Group], list[Question], list[Question], dict[str, list[Sampled]]]
"""Taste, rankings, their questions, held-out questions, and two answers to each of these."""


def compare_linear(worlds: Sequence[World]) -> list[dict[str, Any]]:
    """Return a case about the ties of the rankings, and one for each loss, over the worlds."""
    rows = [_fits(world) for world in worlds]
    gaps = [_gaps(taste, groups, questions) for taste, groups, questions, _, _ in worlds]
    ties = {
        "part": "ties",
        "tie_share": round(mean(tie_share(groups) for _, groups, *_ in worlds), 3),
        "true_gap_of_ties": round(mean(mean(tied) for tied, _ in gaps), 2),
        "true_gap_of_strict_pairs": round(mean(mean(map(abs, apart)) for _, apart in gaps), 2),
        "strict_pairs_in_true_order": round(
            mean(mean(float(gap > 0) for gap in apart) for _, apart in gaps), 3
        ),
    }
    return [ties, *(_case(name, rows) for name in rows[0])]


def _case(name: str, rows: Sequence[dict[str, tuple[float, float]]]) -> dict[str, Any]:
    case: dict[str, Any] = {"part": "linear", "loss": name, "seeds": len(rows)}
    for index, figure in enumerate(("accuracy", "correlation")):
        case[figure] = round(mean(row[name][index] for row in rows), 4)
        for other in ("dropped", "dropped_equal"):
            if name != other:
                gaps = [row[name][index] - row[other][index] for row in rows]
                case[f"{figure}_above_{other}"] = round(mean(gaps), 4)
                case[f"{figure}_above_{other}_interval"] = interval(gaps)
    return case


# --- the data -------------------------------------------------------------------------------------


def features(question: Question, text: str) -> np.ndarray:
    """Return the features of an answer. The words are scaled by the standard deviations of their values."""
    words = text.split()
    index = [WORDS.index(word) for word in sorted(set(words)) if word in WORDS]
    common, own = np.zeros(len(WORDS)), np.zeros((len(ASKERS), len(WORDS)))
    common[index], own[question.asker, index] = VALUE, OWN_VALUE
    counts = [
        len(set(words) & set(question.topics)),
        len(words) - len(index),
        max(0, len(words) - LENGTH),
    ]
    return np.concatenate([common, own.ravel(), counts])


def _gaps(
    taste: Taste, groups: Sequence[Group], questions: Sequence[Question]
) -> tuple[list[float], list[float]]:
    """Return the gaps in true score of tied pairs, and of strict pairs, positive in the true order."""
    named = {question.name: question for question in questions}
    tied, apart = [], []
    for group in groups:
        values = [taste.score(named[group.group_id], text) for text in group.responses]
        apart += [values[i] - values[j] for i, j in strict(group)]
        for tier in group.rankings[0].tiers:
            tied += [abs(values[i] - values[j]) for i, j in combinations(tier, 2)]
    return tied, apart


# --- the fits -------------------------------------------------------------------------------------


def _fits(world: World) -> dict[str, tuple[float, float]]:
    """Return the accuracy and the correlation of each loss on held-out answers."""
    taste, groups, questions, held_out, answers = world
    named = {question.name: question for question in questions}
    size = max(len(group.responses) for group in groups)
    rows = np.zeros((len(groups), size, len(features(held_out[0], ""))), dtype=np.float32)
    won, tied = np.zeros((2, len(groups), size, size), dtype=np.float32)
    for number, group in enumerate(groups):
        k = len(group.responses)
        rows[number, :k] = [features(named[group.group_id], text) for text in group.responses]
        won[number, :k, :k] = strict_wins(group)
        tied[number, :k, :k] = wins(group) - strict_wins(group)
    x, w, t = (torch.from_numpy(values) for values in (rows, won, tied))
    share = tie_share(groups)
    some = w.sum(dim=(1, 2)) / (w + t).sum(dim=(1, 2))  # (G,): share of strict pairs
    losses: dict[str, Loss] = {
        "dropped": lambda s: loss.bradley_terry(s, w)[some > 0],
        "dropped_equal": lambda s: loss.bradley_terry(s, w) * some,
        "half": lambda s: loss.bradley_terry(s, w + t),
        "davidson": lambda s: loss.davidson(s, w, t, loss.davidson_width(share)),
        "rao_kupper": lambda s: loss.rao_kupper(s, w, t, loss.rao_kupper_width(share)),
    }
    pairs = [
        (features(q, a.text), taste.score(q, a.text)) for q in held_out for a in answers[q.name]
    ]
    of_pairs, truth = np.array([row for row, _ in pairs]), np.array([score for _, score in pairs])
    gaps = truth[::2] - truth[1::2]
    chosen, measured = np.arange(len(gaps)) % 2 == 0, np.arange(len(gaps)) % 2 == 1
    figures = {}
    for name, of_scores in losses.items():
        predictions = [
            (scores[::2] - scores[1::2])
            for scores in (of_pairs @ _weights(x, of_scores, ridge) for ridge in RIDGES)
        ]
        best = max(predictions, key=lambda p: _agreement(p[chosen], gaps[chosen])[1])
        figures[name] = _agreement(best[measured], gaps[measured])
    return figures


def _weights(rows: torch.Tensor, of_scores: Loss, ridge: float) -> np.ndarray:
    """Return the weights of the features at the minimum of the loss."""
    weights = torch.zeros(rows.shape[-1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = of_scores(rows @ weights).mean() + ridge * weights.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return weights.detach().double().numpy()


def _agreement(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the share of pairs in the true order, and the correlation of the gaps."""
    differ = truth != 0
    right = (predicted[differ] > 0) == (truth[differ] > 0)
    return float(right.mean()), float(np.corrcoef(predicted, truth)[0, 1])
