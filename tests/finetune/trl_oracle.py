"""TRL's DPOTrainer as an oracle: its loss and gradients on pairs of our tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from recipes.preferences.tokens import TokenGroup


class PretokenizedDPOTrainer(DPOTrainer):
    """A DPOTrainer for rows of prompt_ids, chosen_ids and rejected_ids."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


class Oracle:
    """TRL's loss of a PEFT model. The model as it is now becomes TRL's reference."""

    def __init__(
        self, model: Any, tokenizer: Any, groups: Sequence[TokenGroup], folder: Path, **options: Any
    ):
        """Take pairs: the first response of each group is the chosen one."""
        self.model = model
        self.rows = [
            {
                "prompt_ids": group.prompt.tolist(),
                "chosen_ids": group.responses[0].tolist(),
                "rejected_ids": group.responses[1].tolist(),
            }
            for group in groups
        ]
        config = DPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(self.rows),
            max_length=None,
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            **options,
        )
        self.trainer = PretokenizedDPOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(self.rows),
            processing_class=tokenizer,
        )

    def loss_and_gradients(self) -> tuple[float, dict[str, torch.Tensor]]:
        self.model.zero_grad()
        loss = self.trainer.compute_loss(self.model, self.trainer.data_collator(self.rows))
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.requires_grad}
        self.model.zero_grad()
        return loss.item(), gradients
