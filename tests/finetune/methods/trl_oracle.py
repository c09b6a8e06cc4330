"""TRL's trainers as oracles: their loss and gradients on our tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

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
            **_plain(folder, len(self.rows)),
            **options,
        )
        self.trainer = PretokenizedDPOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(self.rows),
            processing_class=tokenizer,
        )

    def loss_and_gradients(self) -> tuple[float, dict[str, torch.Tensor]]:
        return _loss_and_gradients(self.trainer, self.model, self.rows)


def sft_oracle(
    model: Any, tokenizer: Any, groups: Sequence[TokenGroup], folder: Path
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss and gradients of SFTTrainer on all responses of the groups, as one batch."""
    rows = []
    for group in groups:
        for response in group.responses:
            ids = [*group.prompt.tolist(), *response.tolist()]
            mask = [0] * len(group.prompt) + [1] * len(response)
            rows.append({"input_ids": ids, "completion_mask": mask})
    config = SFTConfig(completion_only_loss=True, packing=False, **_plain(folder, len(rows)))
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return _loss_and_gradients(trainer, model, list(trainer.train_dataset))


class PretokenizedKTOTrainer(KTOTrainer):
    """A KTOTrainer for rows of prompt_ids, completion_ids, KL_completion_ids and label."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


class KTOOracle:
    """KTOTrainer's loss of a PEFT model. The model as it is now becomes its reference.

    Takes groups of one labelled response, with one mismatched response each.
    """

    def __init__(
        self, model: Any, tokenizer: Any, groups: Sequence[TokenGroup], folder: Path, **options: Any
    ):
        self.model = model
        self.rows = [
            {
                "prompt_ids": group.prompt.tolist(),
                "completion_ids": group.responses[0].tolist(),
                "label": bool(group.signals["desirable"][0]),
                **_mismatched(group),
            }
            for group in groups
        ]
        settings = {**_plain(folder, len(self.rows)), **options}
        config = KTOConfig(train_sampling_strategy="sequential", **settings)
        self.trainer = PretokenizedKTOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(self.rows),
            processing_class=tokenizer,
        )

    def loss_and_gradients(self) -> tuple[float, dict[str, torch.Tensor]]:
        return _loss_and_gradients(self.trainer, self.model, self.rows)


def _mismatched(group: TokenGroup) -> dict[str, list[int]]:
    other = group.mismatched
    return {"KL_completion_ids": other.responses[0].tolist()} if other else {}


def _plain(folder: Path, rows: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": rows,
        "max_length": None,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "gradient_checkpointing": False,
    }


def _loss_and_gradients(
    trainer: Any, model: Any, rows: list[dict[str, Any]]
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = trainer.compute_loss(model, trainer.data_collator(rows))
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return loss.item(), gradients
