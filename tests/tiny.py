"""Models and tokenizers small enough to train in a test. Only creating a model imports torch."""

from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def make_tokenizer(chat: bool = True) -> Any:
    """Return a byte-level tokenizer with one token per byte, so that lengths are easy to count."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(SPECIAL + letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
    )
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def tiny_config(family: str = "llama", **changes: Any) -> Any:
    """Return a configuration with a few thousand parameters for a `model_type` of transformers."""
    from transformers import AutoConfig

    size = {
        "vocab_size": len(SPECIAL) + 256,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    own = {
        "gemma": {"head_dim": 8},
        "gemma3_text": {"head_dim": 8},
        "qwen3": {"head_dim": 8},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
        "bloom": {"n_layer": 2, "n_head": 4},
    }
    return AutoConfig.for_model(family, **{**size, **own.get(family, {}), **changes})


def make_model(
    folder: str | Path, family: str = "llama", *, seed: int = 0, chat: bool = True, **changes: Any
) -> Path:
    """Write a causal model with random weights and its tokenizer to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes))
    model.save_pretrained(folder)
    make_tokenizer(chat).save_pretrained(folder)
    return Path(folder)


def make_encoder(folder: str | Path, family: str = "bert", **changes: Any) -> Path:
    """Write an encoder with random weights and no pooling layer to `folder`."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(tiny_config(family, **changes)).save_pretrained(folder)
    tokenizer = make_tokenizer(chat=False)
    ends = [("<|bos|>", 1), ("<|end|>", 2)]
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A <|end|>", special_tokens=ends
    )
    tokenizer.cls_token, tokenizer.sep_token = "<|bos|>", "<|end|>"
    tokenizer.bos_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    return Path(folder)
