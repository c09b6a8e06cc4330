"""The models, data and run directories of the checks that need a GPU.

Legend: P tokens of a prompt, K responses per prompt of R tokens.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from recipes.machine.memory import free_memory
from recipes.preferences.groups import Group, Judgment
from recipes.rundir import RunDir

SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
        "tie_word_embeddings": True,
    },
    "1.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960,
        "tie_word_embeddings": True,
    },
    "8b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    },
}  # fmt: skip
"""Qwen2.5 0.5B, Qwen2.5 1.5B and Llama 3.1 8B."""
TINY = {
    "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64,
}  # fmt: skip
POSITIONS = 4096
SPARE_ROWS = 16
"""Rows of the embeddings without a token, for those that a family's tokenizer adds."""
SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class World:
    """The folder of models and runs, and whether models are tiny and on the CPU."""

    folder: Path
    tiny: bool

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    def model(self, size: str) -> Path:
        """Return the folder of a model with random weights, made at first use."""
        folder = self.folder / f"model-{'tiny-' if self.tiny else ''}{size}"
        if not (folder / "tokenizer.json").exists():
            make_model(folder, {**SHAPES[size], **(TINY if self.tiny else {})}, self.device)
        return folder

    def quantized(self, quantize: str) -> dict[str, str]:
        """Return the setting for frozen weights. Four bits need a GPU, so tiny models have none."""
        return {} if self.tiny or quantize == "none" else {"quantize": quantize}


# --- models and data ------------------------------------------------------------------------------


def make_model(folder: Path, shape: dict[str, Any], device: str) -> None:
    """Write a model with random weights and a tokenizer with as many tokens to `folder`."""
    shape = {**shape, "max_position_embeddings": POSITIONS, "pad_token_id": 0, "eos_token_id": 1}
    kind = shape.pop("model_type")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape), dtype=dtype)
    model.save_pretrained(folder)
    make_tokenizer(shape["vocab_size"] - SPARE_ROWS).save_pretrained(folder)
    del model
    free_memory()


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer. Its other tokens are words, and words are encoded as bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"w{n}" for n in range(size - len(SPECIAL) - len(letters))]
    vocabulary = {token: n for n, token in enumerate([*SPECIAL, *letters, *words])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        additional_special_tokens=list(SPECIAL[2:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def random_groups(count: int, *, k: int, prompt: int, response: int) -> list[Group]:
    """Return ranked random texts of about these numbers of tokens. Every fourth is held out."""
    rng = np.random.default_rng(0)

    def text(length: int) -> str:
        return "".join(rng.choice(list("abcdefgh "), length))

    return [
        ranked_group(str(n), text(prompt), [text(response) for _ in range(k)], held_out=n % 4 == 3)
        for n in range(count)
    ]


def ranked_group(name: str, prompt: str, responses: list[str], *, held_out: bool) -> Group:
    """Return a group whose ranking prefers responses with more letters e."""
    ids = list(range(len(responses)))
    order = sorted(ids, key=lambda n: (-responses[n].count("e"), n))
    judgment = Judgment("rule", [[n] for n in order])
    split = "test" if held_out else "train"
    return Group(name, user(prompt), ids, responses, [judgment], split=split)


def groups_of(sampled: RunDir) -> list[Group]:
    """Return the sampled responses, ranked by a rule, of prompts with at least two different ones."""
    answers: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for row in pq.read_table(sampled.output / "responses.parquet").to_pylist():
        texts[row["prompt_id"]] = row["prompt"][0]["content"]
        if row["response"] and row["response"] not in answers.setdefault(row["prompt_id"], []):
            answers[row["prompt_id"]].append(row["response"])
    usable = [(name, responses) for name, responses in answers.items() if len(responses) > 1]
    return [
        ranked_group(name, texts[name], responses, held_out=number % 4 == 3)
        for number, (name, responses) in enumerate(usable)
    ]


# --- runs -----------------------------------------------------------------------------------------


class WatchedRun(RunDir):
    """A run directory that notes the time and the number of compilations at each logged step."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.steps: list[tuple[int, float, int]] = []
        self.losses: dict[int, float] = {}

    def emit(self, event: str, **fields: Any) -> None:
        super().emit(event, **fields)
        if event == "progress" and "loss" in fields:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.steps.append((fields["step"], time.perf_counter(), compilations()))
            self.losses.setdefault(fields["step"], fields["loss"])

    def report(self) -> dict[str, Any]:
        return json.loads((self.output / "report.json").read_text())


def compilations() -> int:
    """Return the number of graphs that torch.compile has compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def new_run(world: World, name: str, kind: str, config: dict[str, Any]) -> WatchedRun:
    """Return a new, empty run directory."""
    path = run_folder(world, name)
    shutil.rmtree(path, ignore_errors=True)
    RunDir.create(path, {"kind": kind, "config": config})
    return WatchedRun(path)


def finished_run(world: World, name: str) -> WatchedRun | None:
    """Return a run of an earlier check, or None if there is none with output."""
    run = WatchedRun(run_folder(world, name))
    return run if run.output.exists() else None


def run_folder(world: World, name: str) -> Path:
    return world.folder / "runs" / f"{'tiny-' if world.tiny else ''}{name}"
