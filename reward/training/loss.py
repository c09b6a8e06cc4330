"""The Bradley-Terry loss over whole groups (Bradley & Terry 1952; K responses at once as in InstructGPT,
Ouyang et al. 2022, arXiv:2203.02155, section 3.5).

With r the scores of one prompt's responses and w_ij the weight of evidence that i beats j,

    loss = Σ_ij w_ij · -log σ(r_i - r_j)  /  Σ_ij w_ij

so that a prompt with nine responses and thirty-six pairs weighs as much as one with two. A tie is
half a win each way, which pulls the two scores together. Pure functions of tensors.
"""

import torch
import torch.nn.functional as F  # noqa: N812

# G groups, K responses in the largest of them. Missing responses have no wins and so no influence.


def bradley_terry(scores: torch.Tensor, wins: torch.Tensor) -> torch.Tensor:
    """The loss of each group. Scores (G, K), wins (G, K, K).  → (G,) float32; 0 without evidence"""
    margins = differences(scores)  # (G, K, K)
    evidence = wins.sum(dim=(1, 2))  # (G,)
    lost = (wins * -F.logsigmoid(margins)).sum(dim=(1, 2))  # (G,)
    return lost / evidence.clamp(min=torch.finfo(lost.dtype).tiny)


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
    return scores[:, :, None] - scores[:, None, :]
