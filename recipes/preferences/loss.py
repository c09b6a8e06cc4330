"""Losses for whole groups of responses, from scores of a reward model or implicit rewards of a policy.

Pure functions of tensors.

With r the scores of one prompt's responses and w_ij the weight of the evidence that i beats j,

    loss = Σ_ij w_ij · -log P(i beats j)  /  Σ_ij w_ij

so that a prompt with nine responses and thirty-six pairs has the same weight as one with two responses.

Legend: G groups, K responses in the largest of them. In a smaller group, the missing responses have
no wins, so their scores have no influence. Scores may have leading dimensions, such as one for heads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

TINY = 1e-30
"""The smallest width of ties. The logarithm of 0 would be infinite, even for groups without ties."""


@dataclass(frozen=True)
class Graded:
    """The part of `wins` from graded judgments, and the gaps in score that their strengths require."""

    wins: torch.Tensor  # (G, K, K)
    margins: torch.Tensor  # (G, K, K)


def bradley_terry(
    scores: torch.Tensor,  # (G, K)
    wins: torch.Tensor,  # (G, K, K)
    graded: Graded | None = None,
) -> torch.Tensor:
    """Return the loss under P(i beats j) = σ(r_i - r_j), (G,) float32. It is 0 without evidence.

    This is the model of Bradley & Terry 1952. All K responses are compared together, as in InstructGPT
    (Ouyang et al. 2022, arXiv:2203.02155, section 3.5). A tie is half a win for each response, which
    pulls the scores together. A graded win has to exceed its margin, P(i beats j) =
    σ(r_i - r_j - m_ij), as in Llama 2 (Touvron et al. 2023, arXiv:2307.09288, equation 2).
    """
    log_likelihood = _log_likelihood_of_wins(F.logsigmoid, scores, wins, graded)  # (G,)
    return _per_evidence(-log_likelihood, wins)


def davidson(
    scores: torch.Tensor,  # (G, K)
    wins: torch.Tensor,  # (G, K, K)
    ties: torch.Tensor,  # (G, K, K): half of a pair's ties on each side
    width: float,
    graded: Graded | None = None,
) -> torch.Tensor:
    """Return the loss with ties as an outcome that is likelier for closer scores, (G,).

    This is the model of Davidson 1970. With d = r_i - r_j and ν the width,

        Z = e^(d/2) + e^(-d/2) + ν
        P(i beats j) = e^(d/2) / Z
        P(tie) = ν / Z
    """
    log_width = torch.tensor(math.log(max(width, TINY)), device=scores.device)

    def log_z(gaps: torch.Tensor) -> torch.Tensor:
        return torch.logaddexp(torch.logaddexp(gaps / 2, -gaps / 2), log_width)

    def log_win(gaps: torch.Tensor) -> torch.Tensor:
        return gaps / 2 - log_z(gaps)

    log_tie = log_width - log_z(differences(scores))  # (G, K, K)
    won = _log_likelihood_of_wins(log_win, scores, wins, graded)  # (G,)
    tied = (ties * log_tie).sum(dim=(-2, -1))  # (G,)
    return _per_evidence(-(won + tied), wins + ties)


def rao_kupper(
    scores: torch.Tensor,  # (G, K)
    wins: torch.Tensor,  # (G, K, K)
    ties: torch.Tensor,  # (G, K, K): half of a pair's ties on each side
    width: float,
    graded: Graded | None = None,
) -> torch.Tensor:
    """Return the loss with ties as differences below a threshold of perception, (G,).

    This is the model of Rao & Kupper 1967. With d = r_i - r_j and η the width,

        P(i beats j) = σ(d - η)
        P(tie) = (e^2η - 1) · σ(d - η) · σ(-d - η)
    """

    def log_win(gaps: torch.Tensor) -> torch.Tensor:
        return F.logsigmoid(gaps - width)

    gaps = differences(scores)  # (G, K, K)
    log_factor = math.log(max(math.expm1(2 * width), TINY))
    log_tie = log_factor + (log_win(gaps) + log_win(-gaps))  # (G, K, K)
    won = _log_likelihood_of_wins(log_win, scores, wins, graded)  # (G,)
    tied = (ties * log_tie).sum(dim=(-2, -1))  # (G,)
    return _per_evidence(-(won + tied), wins + ties)


def _log_likelihood_of_wins(
    log_win: Callable[[torch.Tensor], torch.Tensor],
    scores: torch.Tensor,  # (G, K)
    wins: torch.Tensor,  # (G, K, K)
    graded: Graded | None,
) -> torch.Tensor:
    """Return Σ_ij w_ij · log P(i beats j), (G,). The gaps of graded wins are less their margins."""
    gaps = differences(scores)  # (G, K, K)
    if graded is None:
        return (wins * log_win(gaps)).sum(dim=(-2, -1))
    ungraded = (wins - graded.wins) * log_win(gaps)
    by_margin = graded.wins * log_win(gaps - graded.margins)
    return (ungraded + by_margin).sum(dim=(-2, -1))


def davidson_width(tie_share: float) -> float:
    """Return the ν with which equal scores tie with this probability: ν / (2 + ν) = share."""
    return 2 * tie_share / max(1 - tie_share, TINY)


def rao_kupper_width(tie_share: float) -> float:
    """Return the η with which equal scores tie with this probability: 1 - 2σ(-η) = share."""
    return math.log((1 + tie_share) / max(1 - tie_share, TINY))


def acceptance(
    scores: torch.Tensor,  # (G, K)
    above: torch.Tensor,  # (G, K)
    below: torch.Tensor,  # (G, K)
) -> torch.Tensor:
    """Return the loss of the line under P(acceptable) = σ(r), (G,). It is 0 without evidence.

    The line is an absolute signal, in addition to the comparisons. Its loss is the binary
    cross-entropy of each response, like the direct term of Eurus (Yuan et al. 2024,
    arXiv:2404.02078, section 3), but with labels from reviewers.
    """
    scores = scores.float()
    lost = -(above * F.logsigmoid(scores) + below * F.logsigmoid(-scores)).sum(dim=-1)  # (G,)
    return lost / (above + below).sum(dim=-1).clamp(min=torch.finfo(lost.dtype).tiny)


def agreement(
    scores: torch.Tensor,  # (G, K)
    wins: torch.Tensor,  # (G, K, K)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the evidence that the scores agree with, and all evidence, as two scalars.

    A tie counts half for each response, so the ratio of the two can reach 1 only without ties.
    Negative evidence, which robust label smoothing adds to the losing response, does not count.
    """
    wins = wins.clamp(min=0)
    gaps = differences(scores)  # (G, K, K)
    agreeing = wins * ((gaps > 0).float() + 0.5 * (gaps == 0).float())
    return agreeing.sum(), wins.sum()


def differences(scores: torch.Tensor) -> torch.Tensor:
    """Return r_i - r_j, (G, K, K) in float32, because in bfloat16 close scores would be equal."""
    scores = scores.float()  # (G, K)
    return scores[..., :, None] - scores[..., None, :]


def _per_evidence(lost: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    # For a group without evidence, the clamp gives 0 / tiny = 0. The gradient of 0 / 0 would be NaN.
    return lost / evidence.sum(dim=(-2, -1)).clamp(min=torch.finfo(lost.dtype).tiny)
