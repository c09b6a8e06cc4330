"""The losses of a reward model over whole groups. Pure functions of tensors.

With r the scores of one prompt's responses and w_ij the weight of evidence that i beats j,

    loss = Σ_ij w_ij · -log P(i beats j)  /  Σ_ij w_ij

so that a prompt with nine responses and thirty-six pairs weighs as much as one with two.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

# G groups, K responses in the largest of them. Missing responses have no wins and so no influence.
# Scores may have more dimensions in front, such as one for several heads.

TINY = 1e-30
"""Stands for a tie width of zero, whose logarithm would spoil even groups without ties."""


@dataclass(frozen=True)
class Graded:
    """The part of `wins` that came with a strength, and the gap it asks for, both (G, K, K)."""

    wins: torch.Tensor
    margins: torch.Tensor


def bradley_terry(
    scores: torch.Tensor, wins: torch.Tensor, graded: Graded | None = None
) -> torch.Tensor:
    """P(i beats j) = σ(r_i - r_j); 0 without evidence.  (G, K), (G, K, K) → (G,) float32

    Bradley & Terry 1952; K responses at once as in InstructGPT (Ouyang et al. 2022,
    arXiv:2203.02155, section 3.5). A tie is half a win each way, which pulls the two scores together.
    A graded win has to be won by its margin, σ(r_i - r_j - m_ij), as in Llama 2 (Touvron et al.
    2023, arXiv:2307.09288, equation 2).
    """
    lost = -_won(F.logsigmoid, scores, wins, graded)  # (G,)
    return _per_evidence(lost, wins)


def davidson(
    scores: torch.Tensor,
    wins: torch.Tensor,
    ties: torch.Tensor,
    width: float,
    graded: Graded | None = None,
) -> torch.Tensor:
    """Ties as an outcome of their own, the likelier the closer the scores (Davidson 1970).  → (G,)

    With d = r_i - r_j and ν the width: P(i beats j) = e^(d/2) / Z and P(tie) = ν / Z, where
    Z = e^(d/2) + e^(-d/2) + ν. `ties` (G, K, K) holds half of a pair's ties on each side.
    """
    log_width = torch.tensor(math.log(max(width, TINY)), device=scores.device)

    def total(gaps: torch.Tensor) -> torch.Tensor:  # log Z
        return torch.logaddexp(torch.logaddexp(gaps / 2, -gaps / 2), log_width)

    won = _won(lambda gaps: gaps / 2 - total(gaps), scores, wins, graded)
    tied = (ties * (log_width - total(differences(scores)))).sum(dim=(-2, -1))
    return _per_evidence(-(won + tied), wins + ties)


def rao_kupper(
    scores: torch.Tensor,
    wins: torch.Tensor,
    ties: torch.Tensor,
    width: float,
    graded: Graded | None = None,
) -> torch.Tensor:
    """Ties where the difference stays below a threshold of perception (Rao & Kupper 1967).  → (G,)

    With d = r_i - r_j and η the width: P(i beats j) = σ(d - η) and
    P(tie) = (e^2η - 1) · σ(d - η) · σ(-d - η), the rest. `ties` (G, K, K) as in `davidson`.
    """
    gaps = differences(scores)
    won = _won(lambda gaps: F.logsigmoid(gaps - width), scores, wins, graded)
    log_odds = math.log(max(math.expm1(2 * width), TINY))
    both = F.logsigmoid(gaps - width) + F.logsigmoid(-gaps - width)
    tied = (ties * (log_odds + both)).sum(dim=(-2, -1))
    return _per_evidence(-(won + tied), wins + ties)


def _won(
    log_probability: Callable[[torch.Tensor], torch.Tensor],
    scores: torch.Tensor,
    wins: torch.Tensor,
    graded: Graded | None,
) -> torch.Tensor:
    """Σ w_ij · log P(i beats j), graded wins by their margin.  → (G,)"""
    gaps = differences(scores)  # (G, K, K)
    if graded is None:
        return (wins * log_probability(gaps)).sum(dim=(-2, -1))
    ungraded = (wins - graded.wins) * log_probability(gaps)
    by_margin = graded.wins * log_probability(gaps - graded.margins)
    return (ungraded + by_margin).sum(dim=(-2, -1))


def davidson_width(tie_share: float) -> float:
    """The ν under which equal scores tie this often: ν / (2 + ν) = share."""
    return 2 * tie_share / max(1 - tie_share, TINY)


def rao_kupper_width(tie_share: float) -> float:
    """The η under which equal scores tie this often: 1 - 2σ(-η) = share."""
    return math.log((1 + tie_share) / max(1 - tie_share, TINY))


def acceptance(scores: torch.Tensor, above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """The line as an absolute signal: P(acceptable) = σ(r). All (G, K) → (G,); 0 without evidence

    Binary cross-entropy per response beside the comparisons, as the direct term of Eurus (Yuan et
    al. 2024, arXiv:2404.02078, section 3), but with labels that a reviewer gave.
    """
    scores = scores.float()
    lost = -(above * F.logsigmoid(scores) + below * F.logsigmoid(-scores)).sum(dim=-1)
    return lost / (above + below).sum(dim=-1).clamp(min=torch.finfo(lost.dtype).tiny)


def agreement(scores: torch.Tensor, wins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much of the evidence the scores order as it says, and how much there is.  → two scalars

    Ties in the evidence take half of each side, so noise-free scores can reach 1 only without them.
    """
    margins = differences(scores)
    right = wins * ((margins > 0).float() + 0.5 * (margins == 0).float())
    return right.sum(), wins.sum()


def differences(scores: torch.Tensor) -> torch.Tensor:
    """r_i - r_j, in float32 because bfloat16 cannot tell close scores apart.  → (G, K, K)"""
    scores = scores.float()  # (G, K)
    return scores[..., :, None] - scores[..., None, :]


def _per_evidence(lost: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    return lost / evidence.sum(dim=(-2, -1)).clamp(min=torch.finfo(lost.dtype).tiny)
