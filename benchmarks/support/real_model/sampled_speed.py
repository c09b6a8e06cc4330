"""The speed of GRPO and RLOO with our sampler, and with TRL's trainers on their own.

A turn is an optimizer step of each side: it samples K responses to each prompt, scores them with the
same reward model, and updates its model. Both sides have the same model, adapter, settings and number
format, and recompute activations. The samples differ, so the speed is that of sampled tokens.

Legend: K responses of a prompt.
"""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any, cast

from datasets import Dataset

from benchmarks.support.real_model.speed import Side
from finetune.methods.method import PolicyGradientMethod
from finetune.training.policy_gradient import PolicyGradient
from finetune.training.rewarded_trainer import RewardFunction, lent_to_trl
from finetune.training.samples import read_data
from finetune.training.train import set_up
from recipes.rundir import RunDir
from recipes.stopping import StopSignal

PROMPTS = 2
"""Prompts per optimizer step."""


def compare_sampled_speed(
    run_dir: RunDir, turns: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the seconds of each counted turn, and the ratio of sampled tokens per second."""
    with tempfile.TemporaryDirectory() as folder:
        # `set_up` writes into a run directory, so it gets one of its own.
        own = RunDir.create(folder + "/run", run_dir.spec())
        (own.data / "preferences.parquet").symlink_to(run_dir.data / "preferences.parquet")
        setup = set_up(own)
        method = cast(PolicyGradientMethod, setup.method)
        method.config = replace(method.config, batch_size=PROMPTS, steps=1, warmup=0.0)
        prompts, held_out = read_data(own)
        run = PolicyGradient(own, setup, prompts[:PROMPTS], held_out, StopSignal())
        run.prepare()
        rewards = {"trl": CountedRewards(run), "ours": CountedRewards(run)}
        theirs = deepcopy(run.policy.ordinary)
        with lent_to_trl(run.policy):
            each = method.config.samples_per_prompt
            size = each * method.config.micro_batch_size
            batch = (size, run.prompts_per_step * each // size)
            trainer = run.make_trainer(rewards["ours"], batch, lambda last: {})
            contenders = {
                "trl": Side(trl_trainer(run, theirs, rewards["trl"], trainer.args, folder)),
                "ours": Side(trainer),
            }
            for turn in range(turns + 1):
                for name, contender in contenders.items():
                    if turn == 1:
                        rewards[name].tokens = 0
                    contender.take_turn(counted=turn > 0)
                last = {name: round(side.last, 2) for name, side in contenders.items()}
                say(f"{method.name}, turn {turn}{'' if turn else ' (not counted)'}: {last} s")
    seconds = {name: side.seconds for name, side in contenders.items()}
    rates = {name: rewards[name].tokens / sum(values) for name, values in seconds.items()}
    return {
        "prompts": len(run.prompts),
        "responses": len(run.prompts) * each,
        "tokens": rewards["ours"].tokens,
        "tokens_trl": rewards["trl"].tokens,
        "tokens_per_s": round(rates["ours"], 1),
        "tokens_per_s_trl": round(rates["trl"], 1),
        "speedup_vs_trl": round(rates["ours"] / rates["trl"], 2),
        "peak_mb": contenders["ours"].peak_mb,
        "peak_mb_trl": contenders["trl"].peak_mb,
        "seconds": [round(value, 3) for value in seconds["ours"]],
        "seconds_trl": [round(value, 3) for value in seconds["trl"]],
    }


class CountedRewards(RewardFunction):
    """The reward model as a reward function, which counts the tokens of the responses."""

    def __init__(self, run: PolicyGradient):
        super().__init__(run)
        self.tokens = 0

    def __call__(self, *arguments: Any, **others: Any) -> list[float | None]:
        """Return the scores. TRL's prompts are chats, so their ids are in a column of their own."""
        self.tokens += sum(map(len, others["completion_ids"]))
        names = others.pop("prompt_id", others.pop("prompts"))
        return super().__call__(names, *arguments, **others)


def trl_trainer(
    run: PolicyGradient, model: Any, reward: CountedRewards, arguments: Any, folder: str
) -> Any:
    """Return TRL's trainer with its own sampling, and otherwise with the same arguments."""
    trainer_class, _ = run.of_trl.trainer_classes()
    rows = [{"prompt": prompt.messages, "prompt_id": prompt.prompt_id} for prompt in run.prompts]
    return trainer_class(
        model=model,
        reward_funcs=reward,
        # TRL computes one of two arguments from the other, and refuses both.
        args=replace(arguments, output_dir=folder + "/trl", generation_batch_size=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=run.setup.tokenizer,
    )
