"""Pairs of responses made from rankings, the same in held-out figures and in exports. Pure numpy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from recipes.preferences.groups import Group, strict_wins, wins

TIES = ("half", "skip", "both")


@dataclass(frozen=True)
class Pair:
    """Two responses of a group, by index.

    `weight` is the net evidence for the chosen response, and `margin` is this weight divided by all
    evidence about the pair. Both are 0 for an even pair, which `ties="both"` gives in each direction.
    """

    chosen: int
    rejected: int
    weight: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Options for the choice of pairs. With the defaults, fine-tuning runs choose held-out pairs.

    ties             With "half", a tie is half a win for each response. With "skip", ties are ignored.
                     "both" is like "half", but an even pair is given in both directions.
    keep_identical   Keep pairs of two responses with the same text, although they teach nothing.
    min_margin       Leave out training pairs with a smaller margin.
    max_per_prompt   Keep at most this many training pairs of a prompt, the clearest. None keeps all.

    The last two options do not apply to held-out pairs, because these measure the model.
    """

    ties: str = "half"
    keep_identical: bool = False
    min_margin: float = 0.0
    max_per_prompt: int | None = 10

    def reasons(self) -> dict[str, str]:
        """Return the reasons to leave out pairs, by the keys under which `pairs_of` counts them."""
        return {
            "never_compared": "not compared by any reviewer",
            "tied": "tied",
            "identical": "both responses are the same text",
            "under_margin": f"margin under {self.min_margin:g}",
            "over_maximum": f"beyond {self.max_per_prompt} pairs of one prompt",
        }


def pairs_of(group: Group, options: PairOptions, left_out: Counter[str]) -> list[Pair]:
    """Return the pairs of a group, the clearest first, and count the others in `left_out`.

    A pair has a winner if all rankings together have more evidence for one response than for the
    other. The clearest pair has the largest margin. Between equal margins, the one with more net
    evidence comes first, and then the one with the larger difference in net wins over the whole group.
    The order is total, so it never depends on chance.
    """
    compared = wins(group)  # (K, K)
    matrix = strict_wins(group) if options.ties == "skip" else compared
    net_wins = compared.sum(axis=1) - compared.sum(axis=0)  # (K,)
    pairs = []
    for i, j in combinations(range(len(matrix)), 2):
        evidence, net = matrix[i, j] + matrix[j, i], matrix[i, j] - matrix[j, i]
        if compared[i, j] + compared[j, i] == 0:
            left_out["never_compared"] += 1
        elif net == 0 and options.ties != "both":
            left_out["tied"] += 1
        elif not options.keep_identical and _same_text(group, i, j):
            left_out["identical"] += 1
        else:
            better, worse = (i, j) if net >= 0 else (j, i)
            pairs.append(Pair(better, worse, float(abs(net)), float(abs(net) / evidence)))

    def clearest_first(pair: Pair) -> tuple[float, ...]:
        gap = net_wins[pair.chosen] - net_wins[pair.rejected]
        return (-pair.margin, -pair.weight, -gap, pair.chosen, pair.rejected)

    pairs.sort(key=clearest_first)
    if group.split == "train":
        pairs = _limited(pairs, options, left_out)
    return [direction for pair in pairs for direction in _directions(pair)]


def _same_text(group: Group, i: int, j: int) -> bool:
    return group.responses[i].strip() == group.responses[j].strip()


def _limited(pairs: Sequence[Pair], options: PairOptions, left_out: Counter[str]) -> list[Pair]:
    """Return the pairs within the limits of the options. `pairs` are the clearest first."""
    clear = [pair for pair in pairs if pair.margin >= options.min_margin]
    clearest = clear[: options.max_per_prompt]
    left_out["under_margin"] += len(pairs) - len(clear)
    left_out["over_maximum"] += len(clear) - len(clearest)
    return clearest


def _directions(pair: Pair) -> list[Pair]:
    """Return the pair. For an even pair, also return its reverse."""
    return [pair] if pair.weight else [pair, Pair(pair.rejected, pair.chosen, 0.0, 0.0)]
