"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): a frozen backbone of four bits a weight.

LoRA matrices, head and gradients stay what they are; each layer's weights are brought back to
bfloat16 as they are used. Needs a CUDA GPU and the package bitsandbytes, which is an extra.
"""

import importlib.util
import os
from typing import Any

import torch
from peft import prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig

from recipes.errors import RecipeError
from recipes.training_settings import QuantizationSettings

LOCAL_RANK = "LOCAL_RANK"


def loading(config: QuantizationSettings, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` takes for the settings' `quantize`; nothing for none.

    Raises RecipeError where it cannot be done on this machine.
    """
    if config.quantize == "none":
        return {}
    refuse_here()
    return {"quantization_config": nf4(dtype), "device_map": {"": own_gpu()}}


def refuse_here() -> None:
    """Raises RecipeError where four bits cannot be computed with."""
    if not torch.cuda.is_available():
        raise RecipeError(
            "quantize: nf4 needs a GPU with CUDA, and this machine has none. Set it to none, or run "
            "on a machine that has one."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "quantize: nf4 needs the package bitsandbytes, which is not installed. Install it with "
            "pip install '.[quantize]', or set quantize to none."
        )


def nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Four-bit NormalFloat with its scales quantized too; the head is left whole."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["score", "classifier"],
    )


def own_gpu() -> int:
    """The number of this process's GPU."""
    return int(os.environ.get(LOCAL_RANK, 0))


def ready_to_train(base: Any, config: QuantizationSettings) -> None:
    """Norms and embeddings in float32, as QLoRA trains; gradients reach the layers' inputs."""
    if not hasattr(base, "score"):
        raise RecipeError(
            "quantize: nf4 is for decoders. An encoder is small and computed in float32; set it to none."
        )
    prepare_model_for_kbit_training(
        base,
        use_gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )


def is_quantized(base: Any) -> bool:
    return bool(getattr(base, "is_quantized", False))
