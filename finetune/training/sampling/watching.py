"""Answers to a few fixed prompts as training goes, for the page of the run.

The prompts are the first held-out prompts of the data or, without any, training prompts. So runs on the same snapshot answer the same
ones. The answers take the likeliest token at each position. They therefore use no random numbers and
do not change the training.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.engines.engine import Request
from finetune.engines.sampled_text import Prompt
from finetune.settings import FinetuneSettings, SamplingConfig
from finetune.training.models.language_model import PolicyChat
from finetune.training.models.policy import PolicyModel
from finetune.training.sampling.from_policy import sampling_from
from finetune.training.sampling.requests import plan
from finetune.training.sampling.seeded import sample_batch
from recipes.errors import RecipeError
from recipes.machine.memory import free_memory, is_out_of_memory
from recipes.rundir import RunDir

TIMES = 3
"""Number of times that the prompts are answered during training, at even intervals.

They are also answered before it."""
LONGEST_TEXT = 2000
"""Maximum number of characters of a prompt and of an answer in an event."""


class SampleAnswers(TrainerCallback):
    """A callback that writes the answers as events. With no prompts, it does nothing.

    The callback costs the time of `sample_tokens` steps of generation each time. If memory runs out
    while it samples, it says so once and does not try again, and the training continues.
    """

    def __init__(
        self,
        run_dir: RunDir,
        policy: PolicyModel,
        chat: PolicyChat,
        config: FinetuneSettings,
        prompts: Sequence[Prompt],
    ):
        self.run_dir = run_dir.whole
        self.policy = policy
        self.chat = chat
        self.sampling = SamplingConfig(temperature=0.0, max_new_tokens=config.sample_tokens)
        self.requests = self._requests(prompts[: config.sample_prompts])
        self.last: int | None = None
        """The step of the last answers, which a training in several attempts does not repeat."""

    def _requests(self, prompts: Sequence[Prompt]) -> list[Request]:
        """Return the requests in the order of the prompts. Prompts that are too long are left out."""
        if not prompts:
            return []
        try:
            requests, _ = plan(list(prompts), self.chat, self.policy.config, self.sampling)
        except RecipeError:
            return []
        order = {prompt.prompt_id: index for index, prompt in enumerate(prompts)}
        return sorted(requests, key=lambda request: order[request.prompt.prompt_id])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and state.global_step == 0:
            self.answer(0, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        steps = {ceil(state.max_steps * number / TIMES) for number in range(1, TIMES + 1)}
        if state.is_world_process_zero and state.global_step in steps:
            self.answer(state.global_step, state.max_steps)

    def answer(self, step: int, total: int) -> None:
        """Answer the prompts with the policy as it is now, and write the event."""
        if not self.requests or step == self.last:
            return
        self.run_dir.stage("Answering sample prompts")
        try:
            with sampling_from(self.policy) as model, torch.compiler.set_stance("force_eager"):
                answers = sample_batch(model, self.chat, self.requests, self.sampling)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            self.requests = []
            self.run_dir.message(
                "There was not enough memory to answer the sample prompts. The training continues "
                "without them.",
                level="warning",
            )
            return
        self.last = step
        rows = [
            {
                "prompt_id": request.prompt.prompt_id,
                "prompt": bounded(last_turn(request.prompt)),
                "answer": bounded(answer.text),
                "truncated": answer.truncated,
            }
            for request, answer in zip(self.requests, answers, strict=True)
        ]
        self.run_dir.emit("samples", step=step, total=total, answers=rows)


def last_turn(prompt: Prompt) -> str:
    return str(prompt.messages[-1]["content"]) if prompt.messages else ""


def bounded(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
