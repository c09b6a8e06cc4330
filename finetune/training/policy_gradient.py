"""Fine-tune a LoRA adapter towards higher scores of a reward model, with a policy gradient of TRL.

    python -m finetune.training.policy_gradient RUN_DIR

RUN_DIR is that of finetune/training/train.py; the settings also name the folder of a reward model.
Only the prompts of the train split are used. The held-out prompts keep the rankings of people, for
the report. A step:

1. The current model samples K responses to each of some prompts.
2. The reward model scores them.
3. TRL compares the scores within each prompt, and updates the model.

Before and after training, the model answers some training prompts with the same seeds. The report
shows the change of their score, next to the divergence from the original model and the length, since
a score that rises at any price is a sign that the model exploits errors of the reward model.

Deliberately not implemented:
- several GPUs: sampling uses one
- one copy of the prompt for all its responses: TRL's loss forwards each response with its prompt
- vLLM and replay of older samples: each is a dependency or a setting that small models do not need

Legend: K responses of a prompt.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from datasets import Dataset
from transformers import PrinterCallback, set_seed

from finetune.evaluation.rounds import Samples, by_prompt, score_change, sentence
from finetune.methods.method import PolicyGradientMethod
from finetune.report import RoundFigures, SampledReport
from finetune.training.fitting.held_out import HeldOut
from finetune.training.fitting.reference import reference_logps
from finetune.training.fitting.trainer import Fitted
from finetune.training.models.policy import check_head
from finetune.training.rewarded_trainer import (
    PolicyGradientEvents,
    RewardFunction,
    lent_to_trl,
    rewarded,
    steps_of,
)
from finetune.training.samples import (
    SampledRun,
    prompts_of_round,
    read_data,
    refuse_several_processes,
)
from finetune.training.sampling.requests import plan
from finetune.training.train import publish_run, report_data, report_of, set_up
from recipes.errors import RecipeError
from recipes.layout import attention
from recipes.layout.collate import Collator, describe
from recipes.layout.families import autocast, precision
from recipes.machine.memory import with_smaller_batches
from recipes.models.adapter import restore, trained_weights
from recipes.preferences.groups import Group
from recipes.preferences.tokens import Prepared, TokenGroup, prepare
from recipes.rundir import RunDir
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training.trainer import (
    WatchHeldOut,
    common_arguments,
    common_callbacks,
    train_to_the_end,
)

MEASURED = 64
"""Training prompts that the model answers before and after training."""
LAYOUT_REASON = "TRL forwards each response with its own copy of the prompt"


def policy_gradient(run_dir: RunDir, stop: StopSignal) -> None:
    refuse_several_processes()
    setup = set_up(run_dir)
    run_dir.stage("Reading the data")
    run = PolicyGradient(run_dir, setup, *read_data(run_dir), stop)
    prepared = run.prepare()
    report_data(run_dir, setup.method, prepared, setup.limit)
    before, samples = run.measure("before", "Before training")
    fitted = run.train(prepared, samples)
    after, later_samples = run.measure("after", "After training")
    report: SampledReport = {
        **report_of(run_dir, setup, fitted, prepared),
        "rounds": [before],
        "after": after,
        "score_change": score_change(samples, later_samples, run.config.seed),
    }
    publish_run(run_dir, setup, report, "score_change")


@dataclass
class PolicyGradient(SampledRun):
    """A run of a method of TRL that learns from rewards.

    After `prepare`, `prompt_ids` has the tokens of the readable prompts by prompt id.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.of_trl = cast(PolicyGradientMethod, self.method)
        self.config = self.of_trl.config
        if self.policy.attends != attention.DENSE:
            # The other ways of attention expect the masks of our layout, which TRL does not make.
            self.policy.inner.set_attn_implementation("sdpa")
            self.policy.attends = attention.DENSE

    def prepare(self) -> Prepared:
        """Return the readable prompts as the train split, and the held-out prompts of the run.

        Raises RecipeError if no prompt is short enough.
        """
        one_each = replace(self.config.sampling_of_round(1), samples_per_prompt=1)
        requests, left_out = plan(self.prompts, self.chat, self.policy.config, one_each)
        method = self.method
        prepared = prepare(
            self.held_out, self.chat, self.setup.limit, method.loss_inputs, method.objection
        )
        for why in left_out.values():
            prepared.left_out["train", "prompts", why] += 1
        for request in requests:
            for note, count in request.notes.items():
                prepared.notes["train", note] += count
        self.prompts = [prompt for prompt in self.prompts if prompt.prompt_id not in left_out]
        self.prompt_ids = {r.prompt.prompt_id: r.prompt_ids for r in requests}
        prepared.groups["train"] = [
            Group(prompt.prompt_id, prompt.messages, [], [], []) for prompt in self.prompts
        ]
        return prepared

    def measure(self, name: str, title: str) -> tuple[RoundFigures, Samples]:
        """Return figures of the policy's samples, and the samples. The seeds are those of step 1."""
        part = self.part(name, title)
        prompts = prompts_of_round(self.prompts, 1, MEASURED, self.config.seed)
        samples = self.samples(part, prompts, self.config.sampling_of_round(1))
        figures = self.figures_of(part, samples)
        self.run_dir.message(f"{title}: {sentence(figures)}")
        return figures, samples

    def train(self, prepared: Prepared, samples: Samples) -> Fitted:
        """Train the policy. `samples` are some of the untrained policy, for checks.

        When memory runs out, the responses per forward pass are halved, and the model is reused.
        """
        run_dir, policy, config = self.run_dir, self.policy, self.config
        collator = Collator(self.setup.tokenizer.pad_token_id, "plain", targets=True)
        first = self.first_group(samples)
        head_reason = check_head(policy, [first], collator.pad_id)
        untrained = trained_weights(policy)
        run_dir.stage("Computing the reference log-probabilities")
        test = prepared.tokens["test"]
        with autocast(policy.device, precision(policy)):
            reference, computed = reference_logps(
                run_dir, policy, config.adapter, test, collator, self.stop
            )
        held_out = HeldOut(policy, self.method, prepared, reference, collator, self.stop)
        reward = RewardFunction(self)
        longest = max(row["tokens"] for row in samples)

        def attempt(responses: int, accumulation: int) -> Any:
            set_seed(config.seed)
            restore(policy, untrained)
            with lent_to_trl(policy):
                trainer = self.make_trainer(reward, (responses, accumulation), held_out.watch)
                trainer.check_head(first)
                run_dir.stage("Trying the largest batch")
                trainer.try_largest_part(max(self.prompt_ids.values(), key=len), longest)
                train_to_the_end(trainer, run_dir)
            return trainer

        each = config.samples_per_prompt
        trainer = with_smaller_batches(
            attempt,
            batch_size=self.prompts_per_step * each,
            micro_batch_size=config.micro_batch_size * each,
            run_dir=run_dir,
        )
        text = describe([first], self.setup.tokenizer, shared=False)
        return Fitted(trainer, held_out, collator, LAYOUT_REASON, head_reason, computed, text)

    @property
    def prompts_per_step(self) -> int:
        return min(self.config.batch_size, len(self.prompts))

    def make_trainer(
        self,
        reward: RewardFunction,
        batch: tuple[int, int],
        watch: Callable[[bool], dict[str, float]],
    ) -> Any:
        """Return TRL's trainer. `batch` is (responses per forward pass, passes per step).

        `watch` returns figures of held-out prompts for the curve, as in WatchHeldOut.
        """
        config, each, per_step = self.config, self.config.samples_per_prompt, self.prompts_per_step
        steps = steps_of(config, len(self.prompts), per_step)
        rounds = -(-steps // config.updates_per_sample)
        names = [
            prompt.prompt_id
            for number in range(1, rounds + 1)
            for prompt in prompts_of_round(self.prompts, number, per_step, config.seed)
        ]
        trainer_class, arguments_class = self.of_trl.trainer_classes()
        common = common_arguments(
            self.run_dir, config, rows=len(names), batch=batch, saves=10, steps=steps
        )
        arguments = arguments_class(
            **common,
            **self.of_trl.arguments(),
            num_generations=each,
            max_completion_length=config.max_new_tokens,
            temperature=config.temperature,
            beta=config.beta,
            epsilon=config.epsilon,
            num_iterations=config.updates_per_sample,
            mask_truncated_completions=config.skip_truncated,
            shuffle_dataset=False,  # the names are in a random order that a resumed run repeats
            gradient_checkpointing=False,  # make_policy turns it on, if the settings ask for it
        )
        events = PolicyGradientEvents(
            self.run_dir,
            steps_per_epoch=len(self.prompts) / per_step * config.updates_per_sample,
        )
        try:
            trainer = rewarded(trainer_class)(
                run=self,
                prompt_ids=self.prompt_ids,
                reward=reward,
                args=arguments,
                train_dataset=Dataset.from_dict({"prompt": names}),
                callbacks=common_callbacks(self.run_dir, events, self.stop),
            )
        except ValueError as error:
            raise RecipeError(f"TRL cannot train this adapter: {error}") from error
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(WatchHeldOut(watch, events, config.evaluations))
        trainer.add_callback(self.answers)
        return trainer

    def first_group(self, samples: Samples) -> TokenGroup:
        """Return the tokens of the first prompt that the model answered, with its answers."""
        prompt, rows = next(iter(by_prompt(samples).items()))
        texts = {row["response"]: row["truncated"] for row in rows}
        encoded = self.chat.read(self.messages[prompt], list(texts), list(texts.values()))
        responses = [ids for ids in encoded.responses if len(ids)]
        wins = np.zeros((len(responses),) * 2, dtype=np.float32)
        return TokenGroup(encoded.prompt, responses, wins)


RECIPE = policy_gradient
"""The recipe that `python -m recipes.preflight` rehearses."""


if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__ or ""))
