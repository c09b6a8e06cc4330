"""The recipe for reward models in a process that cannot forward more than two prompts together.

With several processes, this applies to the second one.
"""

import sys

import torch

from recipes.machine import processes
from recipes.runner import run_recipe
from reward.training.models.reward_model import RewardModel
from reward.training.train import train

forward = RewardModel.forward


def small_forward(self, present, **batch):
    if self.training and len(present) > 2 and processes.rank() == processes.count() - 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return forward(self, present=present, **batch)


if __name__ == "__main__":
    RewardModel.forward = small_forward  # type: ignore[method-assign]
    sys.exit(run_recipe(train, __doc__ or ""))
