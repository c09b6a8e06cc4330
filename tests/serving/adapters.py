"""Adapters for tests of the model server."""

from pathlib import Path


def make_adapter(base: Path, folder: Path, *, seed: int) -> Path:
    """Write a LoRA adapter that changes the answers."""
    import torch
    from peft import LoraConfig, get_peft_model

    from finetune.training.models.language_model import load_model

    torch.manual_seed(seed)
    model = get_peft_model(
        load_model(str(base), "float32"), LoraConfig(r=4, target_modules="all-linear")
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder
