"""TRL's trainers of policy gradients, with the sampler, tokens, rewards and checkpoints of this package.

TRL keeps the order of samples and updates, the advantages, the reference and the loss. Replaced are

tokens        of prompts, which are those of PolicyChat. TRL would apply the chat template itself.
samples       drawn as for generation: each has its own seed, so a resumed run draws the same ones
rewards       of our reward model, on the text as it would be served. One that is not a number ends the run
checkpoints   only the trained weights, and samples that later updates still learn from

TRL trains on the sampled tokens themselves, so training and serving cannot differ in them.

The replaced methods are private in TRL, whose version constraints.txt pins. The tests fail if TRL no
longer calls them.

Legend: B responses, P tokens of the longest prompt, T tokens of the longest response.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from finetune.engines.engine import Request
from finetune.engines.sampled_text import sample_seed
from finetune.settings import PolicyGradientSettings
from finetune.training.models.policy import PolicyModel
from finetune.training.samples import RewardScores, SampledRun, sampling_from
from finetune.training.sampling.engines import make_engine
from recipes.errors import RecipeError, Stopped
from recipes.layout.families import MAX_LAYOUT_DIFFERENCE, precision
from recipes.layout.forward import evaluating
from recipes.models.adapter import restore, trained_weights
from recipes.preferences.tokens import TokenGroup
from recipes.rundir import RunDir
from recipes.training.callbacks import ProgressEvents
from recipes.training.checkpoints import step_of

if TYPE_CHECKING:
    Base: Any = Trainer
else:
    Base = object

WEIGHTS, SAMPLES = "trained.safetensors", "samples.pt"
METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "num_tokens": "num_tokens",
    "reward": "reward_score",
    "reward_std": "reward_spread",
    "kl": "kl_per_token",
    "entropy": "entropy",
    "completions/mean_length": "mean_tokens",
    "completions/clipped_ratio": "truncated",
    "clip_ratio/region_mean": "clipped",
    "unscored": "unscored",
    "distinct": "distinct",
    "equal_rewards": "equal_rewards",
}
"""Names in the events of a run for those in TRL's logs. The last three are of `group_figures`. Other
metrics of TRL are left out."""


class RewardFunction:
    """The reward model as a reward function of TRL, for the prompts of a run."""

    __name__ = "reward_model"

    def __init__(self, run: SampledRun):
        self.chat = run.chat
        self.stop = run.stop
        self.scores = RewardScores(run.settings.reward_model, run.messages)

    def __call__(
        self,
        prompts: list[str],
        completion_ids: list[list[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **others: Any,
    ) -> list[float | None]:
        """Return the score of each response, None for those too long for the reward model.

        `prompts` are prompt ids, and `log_metric` adds a figure to the logs of the trainer. Raises
        RecipeError if no response has a score.
        """
        texts = [self.text(ids) for ids in completion_ids]
        of_prompts: dict[str, dict[str, None]] = {}
        for prompt, text in zip(prompts, texts, strict=True):
            of_prompts.setdefault(prompt, {})[text] = None
        scores = self.scores.of([(prompt, list(some)) for prompt, some in of_prompts.items()])
        rewards = [scores[pair] for pair in zip(prompts, texts, strict=True)]
        if all(reward is None for reward in rewards):
            raise RecipeError(
                f"None of the {len(rewards)} samples of a step has a score, because all are empty or too "
                "long for the reward model. Allow shorter responses, or choose another reward model."
            )
        if log_metric:
            for name, value in group_figures(prompts, texts, rewards).items():
                log_metric(name, value)
        return rewards

    def text(self, ids: list[int]) -> str:
        """Return the response as it would be served, from its tokens with the one that ended it."""
        return self.chat.response_text(ids[:-1] if ids[-1] in self.chat.stop_ids else ids)


def group_figures(
    prompts: Sequence[str], texts: Sequence[str], rewards: Sequence[float | None]
) -> dict[str, float]:
    """Return what the responses of a step can teach. The arguments have one entry per response.

    `unscored`       share of responses without a score
    `distinct`       number of different texts, by prompt, as a share of the responses
    `equal_rewards`  share of prompts whose scored responses all have the same score
    """
    scores: dict[str, set[float]] = {prompt: set() for prompt in prompts}
    for prompt, reward in zip(prompts, rewards, strict=True):
        if reward is not None:
            scores[prompt].add(reward)
    return {
        "unscored": sum(reward is None for reward in rewards) / len(rewards),
        "distinct": len(set(zip(prompts, texts, strict=True))) / len(texts),
        "equal_rewards": sum(len(some) < 2 for some in scores.values()) / len(scores),
    }


class Rewarded(Base):
    """A mixin of TRL's GRPOTrainer and RLOOTrainer. See `rewarded`.

    The rows of its dataset have the prompt's id as `prompt`, in the order in which they are used.
    """

    def __init__(
        self,
        *,
        run: SampledRun,
        prompt_ids: Mapping[str, list[int]],
        reward: RewardFunction,
        **options: Any,
    ):
        self.run = run
        self.prompt_names: list[str] = []
        self.ids_of_prompts = prompt_ids
        super().__init__(
            model=run.policy.ordinary,
            reward_funcs=reward,
            processing_class=run.setup.tokenizer,
            **options,
        )
        self.eos_token_ids = run.chat.stop_ids

    @property
    def settings(self) -> PolicyGradientSettings:
        settings = self.run.settings
        assert isinstance(settings, PolicyGradientSettings)
        return settings

    # --- samples ----------------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Return the tokens of the prompts with these ids, no images, and no other inputs."""
        self.prompt_names = prompts
        return [self.ids_of_prompts[name] for name in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *others: Any) -> Any:
        """Return the tokens of a response to each prompt, with the token that ended it.

        GRPOTrainer also expects their log-probabilities while sampling, or None. A stop signal ends
        the run between two batches, after a checkpoint.
        """
        number = self.state.global_step // self.num_iterations + 1
        sampling = self.settings.sampling_of_round(number)
        samples: dict[str, int] = {}
        prompts = {prompt.prompt_id: prompt for prompt in self.run.prompts}
        requests = []
        for name, ids in zip(self.prompt_names, prompt_ids, strict=True):
            sample = samples[name] = samples.get(name, -1) + 1
            seed = sample_seed(sampling.seed, name, sample)
            requests.append(Request(prompts[name], ids, sample, seed))
        with sampling_from(self.run.policy) as model:
            engine = make_engine(self.settings.engine, model, self.run.chat, sampling)
            tokens = engine.tokens(requests, self._stop)
        return (tokens, None) if isinstance(self, GRPOTrainer) else tokens

    def _stop(self) -> None:
        """If the run was asked to stop, write a checkpoint of the last step, and raise Stopped."""
        if not self.run.stop.requested:
            return
        if self.state.global_step:
            self._save_checkpoint(self.model, None)
            self.callback_handler.on_save(self.args, self.state, self.control)
        raise Stopped

    # --- checkpoints ------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_weights(self.model), folder / WEIGHTS)
        if self._buffered_inputs and self._step % self._updates_of_samples:
            torch.save(_joined(self._buffered_inputs), folder / SAMPLES)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Restore the weights, the number of updates, and the samples that are still in use.

        The number of updates counts forward passes, of which a step has more after memory ran out.
        """
        folder = Path(resume_from_checkpoint)
        restore(self.model, load_file(folder / WEIGHTS))
        self._step = (step_of(folder) or 0) * self.args.gradient_accumulation_steps
        if (folder / SAMPLES).exists():
            device = self.args.device
            samples = torch.load(folder / SAMPLES, map_location=device, weights_only=True)
            self._buffered_inputs = split_tensor_dict(samples, self.args.steps_per_generation)

    @property
    def _updates_of_samples(self) -> int:
        """Return the number of forward passes between two rounds of sampling."""
        return self.args.steps_per_generation * self.num_iterations

    def create_model_card(self, *arguments: Any, **others: Any) -> None:
        """Write no card into checkpoints. `publish_run` writes the one of the output."""

    # --- checks -----------------------------------------------------------------------------------

    def try_largest_part(self, prompt: Sequence[int], length: int) -> None:
        """Run a forward and backward pass with the longest prompt, and discard the gradients.

        A run that does not fit into memory then fails before it samples. `length` is that of the
        responses. Costs one part of one step.
        """
        count, device = self.args.per_device_train_batch_size, self.args.device
        tokens = torch.tensor([list(prompt)] * count, device=device)  # (B, P)
        responses = tokens.new_full((count, length), self.run.chat.end_id)  # (B, T)
        zeros = torch.zeros(count, length, device=device)
        inputs = {
            "prompt_ids": tokens,
            "prompt_mask": torch.ones_like(tokens),
            "completion_ids": responses,
            "completion_mask": torch.ones_like(responses),
            "advantages": zeros[:, 0],
            "old_logps": zeros[:, 0],
            "ref_per_token_logps": zeros,
            "num_items_in_batch": torch.tensor(count * length, device=device),
        }
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        self.model.train()
        with self.compute_loss_context_manager():
            loss = self._compute_loss(self.model, inputs)
        loss.backward()
        self.model.zero_grad(set_to_none=True)
        self._metrics["train"].clear()

    @torch.no_grad()
    def check_head(self, group: TokenGroup) -> None:
        """Raise RecipeError if TRL's log-probabilities differ from those of the model's own logits.

        TRL computes the head itself. It knows the scales of many families, but not of all.
        """
        ids = torch.tensor(
            [[*group.prompt.tolist(), *group.responses[0].tolist()]], device=self.args.device
        )
        mask, length = torch.ones_like(ids), len(group.responses[0])
        with evaluating(self.model), self.accelerator.autocast():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            theirs = self._get_per_token_logps_and_entropies(self.model, ids, mask, length)[0]
        scaled = logits[0, -length - 1 : -1].float() / self.settings.temperature  # (T, V)
        own = scaled.log_softmax(dim=-1).gather(1, ids[0, -length:, None])[:, 0]  # (T,)
        difference = ((theirs[0] - own).abs().max() / own.abs().max().clamp(min=1.0)).item()
        kind = precision(self.run.policy)
        limit = MAX_LAYOUT_DIFFERENCE.get(kind, MAX_LAYOUT_DIFFERENCE[torch.bfloat16])
        if not difference <= limit:
            raise RecipeError(
                f"The log-probabilities that TRL computes for this model differ by {difference:.2%} from "
                "those of its logits, so this method cannot train it. Use the method online instead."
            )


def rewarded(trainer: type) -> Callable[..., Any]:
    """Return a subclass of TRL's trainer with the methods of Rewarded."""
    return type(f"Rewarded{trainer.__name__}", (Rewarded, trainer), {})


class PolicyGradientEvents(ProgressEvents):
    """Progress events with our names for TRL's metrics. An epoch is one sampling of all prompts."""

    def __init__(self, run_dir: RunDir, *, steps_per_epoch: float):
        super().__init__(run_dir)
        self.steps_per_epoch = steps_per_epoch

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None and self.SUMMARY not in logs:
            logs = {METRICS[name]: value for name, value in logs.items() if name in METRICS}
        super().on_log(args, state, control, logs, **kwargs)

    def epochs_done(self, state: TrainerState) -> float:
        return state.global_step / self.steps_per_epoch


@contextmanager
def lent_to_trl(policy: PolicyModel) -> Iterator[None]:
    """Let TRL change the model, and undo the changes that would reach the output.

    TRL and accelerate replace forward methods, and TRL adds a copy of the adapter as the reference.
    """
    model, inner = policy.ordinary, policy.inner
    forwards = [(part, vars(part).get("forward")) for part in (model, inner)]
    try:
        yield
    finally:
        for part, forward in forwards:
            vars(part).pop("forward", None)
            vars(part).pop("_original_forward", None)
            if forward is not None:
                part.forward = forward
        if "ref" in model.peft_config:
            model.delete_adapter("ref")


def _joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the samples of all parts of a step. Values without a dimension are equal in all parts."""
    return {
        name: value if value.ndim == 0 else torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
    }


def steps_of(config: PolicyGradientSettings, prompts: int, prompts_per_step: int) -> int:
    """Return the number of optimizer steps of a run on this many prompts."""
    if config.steps:
        return config.steps
    return ceil(config.epochs * ceil(prompts / prompts_per_step)) * config.updates_per_sample
