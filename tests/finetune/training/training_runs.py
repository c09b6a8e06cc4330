"""Small runs of the recipes: data a person can read, models of a few thousand weights."""

import json
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.engines.sampled_text import Prompt, write_prompts
from recipes.preferences.groups import Group, Judgment, write_groups
from recipes.rundir import RunDir
from tests.forks import Program
from tests.tiny import make_model, make_tokenizer


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ranked_group(name: str, responses: list[str], *tiers: list[list[int]], **fields: Any) -> Group:
    """Return a group whose response ids are indices, with one reviewer per weak order."""
    rankings = [Judgment(f"r{number}", order) for number, order in enumerate(tiers)]
    prompt = fields.pop("prompt", user(f"Question {name}?"))
    return Group(name, prompt, list(range(len(responses))), responses, rankings, **fields)


def groups_that_like_b(count: int, *, responses: int = 3, every_test: int = 4) -> list[Group]:
    """Responses of a's and b's; the more b's the better. A model of any size can learn that."""
    rng = random.Random(0)
    groups = []
    for number in range(count):
        texts = [
            "".join(rng.choice("ab") for _ in range(rng.randint(6, 14))) for _ in range(responses)
        ]
        order = sorted(range(responses), key=lambda k: -texts[k].count("b") / len(texts[k]))
        split = "test" if number % every_test == 0 else "train"
        groups.append(ranked_group(f"g{number}", texts, [[k] for k in order], split=split))
    return groups


def lined_groups(count: int, cut: int = 1) -> list[Group]:
    """Return the groups that like b, with `cut` acceptable responses of three."""
    groups = groups_that_like_b(count)
    return [replace(g, rankings=[replace(g.rankings[0], cut=cut)]) for g in groups]


def dpo_run(
    path: Path, model: Path, groups: list[Group], *, method: str = "dpo", **config: Any
) -> RunDir:
    """Lay out a fine-tuning run, by default of DPO."""
    settings = {
        "model": str(model),
        "learning_rate": 5e-3,
        "batch_size": 8,
        "micro_batch_size": 4,
        "lora_r": 4,
        "lora_alpha": 8,
        "evaluations": 1,
        "sample_prompts": 0,
        **config,
    }
    run_dir = RunDir.create(path, {"kind": method, "config": settings})
    write_groups(run_dir.data / "preferences.parquet", groups)
    return run_dir


def report_of(run_dir: RunDir) -> Any:
    return json.loads((run_dir.output / "report.json").read_text())


def weights_of(folder: Path) -> dict[str, Any]:
    """Return the tensors of an adapter."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def apart(one: RunDir, other: RunDir) -> float:
    """Return the largest difference between the weights of two adapters."""
    first, second = weights_of(one.output), weights_of(other.output)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def make_letters_model(folder: Path) -> Path:
    """Write a tiny model whose answers, of a's and b's, have the same tokens when read again.

    One with random weights would sample bytes that are not text.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from finetune.training.models.language_model import PolicyChat

    make_model(folder)
    policy, tokenizer = AutoModelForCausalLM.from_pretrained(folder), make_tokenizer()
    chat, rng = PolicyChat(tokenizer), random.Random(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for step in range(80):
        answers = ["".join(rng.choices("ab", k=rng.randint(1, 7))) for _ in range(8)]
        encoded = chat.read(user(f"Question g{step % 16}?"), answers)
        rows = [[*encoded.prompt.tolist(), *ids.tolist()] for ids in encoded.responses]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        labels = torch.where(ids == 0, -100, ids)
        labels[:, : len(encoded.prompt)] = -100
        policy(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    policy.save_pretrained(folder)
    return folder


def sampling_run(path: Path, kind: str, prompts: list[Prompt], **config: Any) -> RunDir:
    settings = {"max_new_tokens": 12, "batch_size": 4, **config}
    run_dir = RunDir.create(path, {"kind": kind, "config": settings})
    write_prompts(run_dir.data / "prompts.parquet", prompts)
    return run_dir


def start(module: str, run_dir: RunDir) -> Program:
    """Run the recipe in another process. Its output goes to a file next to the run directory."""
    log = run_dir.path.with_name(f"{run_dir.path.name}.log")
    return Program(module, run_dir.path, log=log)


def interrupt_when(process: Program, path: Path, number: signal.Signals) -> int:
    """Send the signal as soon as `path` exists; the exit status. Fails after a minute."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.log.read_text()
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.002)
    process.send_signal(number)
    return process.wait(60)


def messages(run_dir: RunDir, level: str = "info") -> list[str]:
    return [e["text"] for e in run_dir.events() if e["event"] == "message" and e["level"] == level]


def results(run_dir: RunDir) -> list[dict[str, Any]]:
    return [e["result"] for e in run_dir.events() if e["event"] == "result"]


def progress(run_dir: RunDir) -> list[dict[str, Any]]:
    return [e for e in run_dir.events() if e["event"] == "progress"]


def make_adapter(folder: Path, model: Path, *, scale: float, **lora: Any) -> Path:
    """Write an adapter with random weights, which has no effect with a scale of 0."""
    import torch
    from peft import LoraConfig, get_peft_model

    from finetune.training.models.language_model import load_model

    torch.manual_seed(1)
    settings = {"r": 4, "target_modules": "all-linear", **lora}
    policy = get_peft_model(load_model(str(model), "float32"), LoraConfig(**settings))
    for name, weight in policy.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            torch.nn.init.normal_(weight.data, std=scale) if scale else weight.data.zero_()
        elif "modules_to_save" in name:
            weight.data += torch.randn_like(weight) * scale * weight.std()
    policy.save_pretrained(folder)
    return folder
