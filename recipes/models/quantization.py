"""QLoRA: a frozen backbone with four bits per weight (Dettmers et al. 2023, arXiv:2305.14314).

The LoRA matrices, the head and the gradients keep their number format. The weights of each layer are
converted to bfloat16 when they are used. This needs a CUDA GPU and the optional package bitsandbytes.
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
    """Return the arguments of `from_pretrained` for the setting `quantize`. For "none", return {}.

    Raises RecipeError if this machine does not support the setting.
    """
    if config.quantize == "none":
        return {}
    check_support()
    return {"quantization_config": nf4(dtype), "device_map": {"": own_gpu()}}


def check_support() -> None:
    """Raise RecipeError if this machine cannot compute with four-bit weights."""
    if not torch.cuda.is_available():
        raise RecipeError(
            "quantize: nf4 needs a CUDA GPU, and this machine has none. Set quantize to none, or use "
            "a machine with a GPU."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "quantize: nf4 needs the package bitsandbytes, which is not installed. Install it with "
            "pip install '.[quantize]', or set quantize to none."
        )


def nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the configuration of four-bit NormalFloat with quantized scales.

    The head is not quantized.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["score", "classifier", "lm_head", "embed_out"],
    )


def own_gpu() -> int:
    """Return the number of the GPU that this process uses."""
    return int(os.environ.get(LOCAL_RANK, 0))


def prepare_for_training(base: Any, *, checkpointing: bool) -> None:
    """Convert norms and embeddings to float32, and enable gradients for the inputs of the layers."""
    prepare_model_for_kbit_training(
        base,
        use_gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )


def is_quantized(base: Any) -> bool:
    return bool(getattr(base, "is_quantized", False))
