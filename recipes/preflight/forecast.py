"""The forecast of a run from two rehearsals with different numbers of layers. Needs no torch.

In every stage of a run, memory and time are nearly linear in the number of layers. With the figures
y₁ and y₂ of a stage in rehearsals with d₁ and d₂ layers, the figure of a model with L layers is

    y(L) = y₂ + (L - d₂) · (y₂ - y₁) / (d₂ - d₁)

The peak of the run is that of its largest stage. Its time is the sum over the stages, each multiplied
by the amount of work in the run, divided by that in the rehearsal.

Legend: K responses per prompt, P tokens of a prompt, R tokens of a response.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Self

MEASUREMENT = "measurement.json"
"""The file in a run directory with the result of its rehearsals."""
OUT_OF_MEMORY = 3
"""The exit status of `python -m recipes.preflight` if a rehearsal runs out of memory."""
FINETUNE_SAVES, REWARD_SAVES = 10, 20
"""About how many checkpoints a run writes, if its settings give no interval."""
WATCHED = {"finetune": 100, "reward": 200}
"""The number of held-out prompts that are scored during training."""
MEASURED_PROMPTS = 64
"""The number of prompts that a policy gradient answers before and after training."""
SAMPLING = "Sampling responses"
JUDGING = "Scoring the responses with the reward model"
COMPARING = "Comparing the model with the reference"
REFERENCE = "Computing the reference log-probabilities"
READING = "Reading the data"
TRAINING, SAVING = "Training", "Saving"
"""Saving is the time after the last logged step, in which the last checkpoint is written."""
ANSWERING = "Answering sample prompts"
ANSWERS = 3
"""The number of times that sample prompts are answered during training.

They are also answered before it.
"""
SCORING = "Scoring held-out prompts for the report"
WRITING = "Writing the results"
AFTERWARDS = (SCORING, SAVING, WRITING)
"""Stages that need less memory than training, but may hold what training has freed.

The C library returns freed memory to the system in an irregular way. So the resident size of these
stages is not extrapolated to more layers.
"""
WITHOUT_EFFECT = frozenset(
    {
        "learning_rate", "weight_decay", "max_grad_norm", "schedule", "warmup", "seed", "epochs",
        "steps", "rounds", "prompts_per_round", "evaluations", "checkpoint_steps", "learning_curve",
        "label_mistakes", "beta", "lora_alpha", "temperature", "strength_scale", "label_smoothing",
        "smoothing", "tie_margin", "epsilon", "desirable_weight", "undesirable_weight",
    }
)  # fmt: skip
"""Settings that change neither the memory nor the time of a step."""
PER_ROUND = ("Checking the first batch", "Trying the largest batch")


@dataclass(frozen=True)
class Phase:
    """A stage of a rehearsal. `times` is how often it occurred, and `seconds` the sum over these."""

    seconds: float
    peak_mb: float
    times: int = 1


@dataclass(frozen=True)
class Amounts:
    """The amount of data of a run or a rehearsal. A token counts once, also in a shared prompt."""

    train_prompts: int
    train_tokens: float
    test_prompts: int
    test_tokens: float
    test_responses: int = 0
    longest_tokens: int = 0
    """The tokens of the longest training prompt with all its responses."""
    longest_sequence: int = 0
    """The tokens of the longest training prompt with one response."""


@dataclass(frozen=True)
class Rehearsal:
    """The phases of a recipe with a model of `layers` layers, by stage."""

    layers: int
    phases: Mapping[str, Phase]


@dataclass(frozen=True)
class Measurement:
    """The result of the rehearsals of a run, which does not depend on the number of epochs.

    rehearsals    one or two, the one with fewer layers first
    layers        the number of layers of the model
    imported_mb   MiB of resident memory before the run begins, 0 on a GPU
    whole, part   the amounts of data of the run and of a rehearsal
    batch         prompts per step in the rehearsals
    on_train      whether the reference of the training prompts is computed
    device        the name of the device, and its memory in MiB
    """

    rehearsals: tuple[Rehearsal, ...]
    layers: int
    imported_mb: float
    whole: Amounts
    part: Amounts
    on_train: bool
    device: str
    capacity_mb: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        rehearsals = tuple(
            Rehearsal(
                item["layers"],
                {name: Phase(**phase) for name, phase in item["phases"].items()},
            )
            for item in values["rehearsals"]
        )
        whole, part = Amounts(**values["whole"]), Amounts(**values["part"])
        return cls(**{**values, "rehearsals": rehearsals, "whole": whole, "part": part})

    def phases(self) -> dict[str, Phase]:
        """Return the phases of a rehearsal with all layers."""
        *_, last = self.rehearsals
        if len(self.rehearsals) == 1:
            return dict(last.phases)
        first = self.rehearsals[0]
        beyond = (self.layers - last.layers) / (last.layers - first.layers)
        result = {}
        for name, phase in last.phases.items():
            shorter = first.phases.get(name, phase)
            grown = 0.0 if name in AFTERWARDS else max(0.0, phase.peak_mb - shorter.peak_mb)
            result[name] = Phase(
                phase.seconds + beyond * max(0.0, phase.seconds - shorter.seconds),
                phase.peak_mb + beyond * grown,
                phase.times,
            )
        return result


@dataclass(frozen=True)
class Forecast:
    """The memory and time of a run.

    increment_mb  peak beyond the memory of the imports, in MiB; on a GPU, the reserved memory
    memory_mb     peak with the imports
    seconds       from the start of the recipe to its end
    largest       the stage with the highest peak
    parts         (stage, seconds), the longest first
    """

    increment_mb: float
    memory_mb: float
    seconds: float
    largest: str
    parts: tuple[tuple[str, float], ...]
    capacity_mb: float
    device: str

    @property
    def fits(self) -> bool:
        return not self.capacity_mb or self.memory_mb <= self.capacity_mb

    def cost(self, price_per_hour: float) -> float:
        return self.seconds / 3600 * price_per_hour


def forecast(measured: Measurement, kind: str, config: Mapping[str, Any]) -> Forecast:
    """Return the forecast of a run of this kind with these settings."""
    phases = measured.phases()
    work = _Work(measured, kind, config)
    seconds = {name: phase.seconds * work.times(name) for name, phase in phases.items()}
    watched = work.evaluations()
    if SCORING in phases and watched:
        seconds["Scoring held-out prompts"] = phases[SCORING].seconds * watched
    largest = max(phases, key=lambda name: phases[name].peak_mb)
    increment = phases[largest].peak_mb
    return Forecast(
        increment_mb=round(increment, 1),
        memory_mb=round(increment + measured.imported_mb, 1),
        seconds=round(sum(seconds.values()), 1),
        largest=largest,
        parts=tuple(sorted(seconds.items(), key=lambda item: -item[1])),
        capacity_mb=measured.capacity_mb,
        device=measured.device,
    )


@dataclass(frozen=True)
class _Work:
    """The work of a run relative to that of its rehearsal."""

    measured: Measurement
    kind: str
    config: Mapping[str, Any]

    def times(self, stage: str) -> float:
        """Return how many times longer a stage is in the run, apart from the number of layers."""
        whole, part = self.measured.whole, self.measured.part
        if stage == READING:
            prompts = part.train_prompts + part.test_prompts
            return (whole.train_prompts + whole.test_prompts) / max(1, prompts)
        if stage == SCORING:
            return _ratio(whole.test_tokens, part.test_tokens)
        if stage == TRAINING:
            return self.training()
        if stage == SAVING:
            return self.saves()
        if stage == ANSWERING:
            return (min(self.steps(), ANSWERS) + 1) / self.measured.rehearsals[-1].phases[
                stage
            ].times
        if stage == REFERENCE:
            if not self.measured.on_train or self.is_sampled:
                return self.rounds * _ratio(whole.test_tokens, part.test_tokens)
            return _ratio(
                whole.train_tokens + whole.test_tokens, part.train_tokens + part.test_tokens
            )
        if stage in (SAMPLING, JUDGING):
            return self.sampled() / (2 * self.sampled_in_rehearsal)
        if stage == COMPARING:
            return max(1.0, self.sampled() / self.sampled_in_rehearsal - 1)
        if stage in PER_ROUND:
            return self.rounds * self.trainings()
        return 1.0

    # --- training ---------------------------------------------------------------------------------

    def training(self) -> float:
        whole, part = self.measured.whole, self.measured.part
        epochs = float(self.config.get("epochs") or 1)
        if self.is_policy_gradient:
            return self.steps() * self.prompts_per_step() / max(1, part.train_prompts)
        if self.is_sampled:
            prompts = sum(self.prompts_of_rounds())
            return epochs * prompts / max(1, part.train_prompts)
        return epochs * _ratio(whole.train_tokens, part.train_tokens) * self.trainings()

    def trainings(self) -> float:
        """Return the amount of training relative to one training on all prompts.

        A reward model is also trained on parts of the data, for a learning curve and label mistakes.
        """
        halvings = int(self.config.get("learning_curve") or 0)
        folds = int(self.config.get("label_mistakes") or 0)
        return 1.0 + sum(0.5**n for n in range(1, halvings + 1)) + max(0, folds - 1)

    def steps(self) -> int:
        if self.config.get("steps"):
            return int(self.config["steps"])
        epochs = float(self.config.get("epochs") or 1)
        prompts = self.measured.whole.train_prompts
        updates = int(self.config.get("updates_per_sample") or 1)
        return max(1, ceil(epochs * ceil(prompts / self.prompts_per_step()) * updates))

    def prompts_per_step(self) -> int:
        return max(1, min(int(self.config["batch_size"]), self.measured.whole.train_prompts))

    def saves(self) -> float:
        """Return the number of checkpoints. A rehearsal writes one."""
        steps = self.steps()
        every = int(self.config.get("checkpoint_steps") or 0)
        usual = REWARD_SAVES if self.kind == "reward" else FINETUNE_SAVES
        return max(1, steps // every if every else min(steps, usual))

    def evaluations(self) -> float:
        """Return the work of the evaluations during training, relative to a rehearsal's report."""
        whole, part = self.measured.whole, self.measured.part
        if not part.test_prompts:
            return 0.0
        per_prompt = _ratio(whole.test_tokens, part.test_tokens) / max(1, whole.test_prompts)
        epochs = ceil(float(self.config.get("epochs") or 1))
        if self.kind == "reward":
            return (epochs - 1) * per_prompt * min(WATCHED["reward"], whole.test_prompts)
        count = int(self.config.get("evaluations") or 0)
        some = min(WATCHED["finetune"], whole.test_prompts)
        prompts = (count - 1) * some + whole.test_prompts if count else 0
        return self.rounds * per_prompt * prompts

    # --- methods that learn from samples ----------------------------------------------------------

    @property
    def is_sampled(self) -> bool:
        return "samples_per_prompt" in self.config

    @property
    def is_policy_gradient(self) -> bool:
        return "updates_per_sample" in self.config

    @property
    def rounds(self) -> int:
        return int(self.config.get("rounds") or 1)

    def prompts_of_rounds(self) -> list[int]:
        prompts = self.measured.whole.train_prompts
        each = min(int(self.config.get("prompts_per_round") or prompts), prompts)
        return [each] * self.rounds

    def sampled(self) -> int:
        """Return the number of prompts that are answered outside of training."""
        if self.is_policy_gradient:
            return 2 * min(MEASURED_PROMPTS, self.measured.whole.train_prompts)
        rounds = self.prompts_of_rounds()
        return sum(rounds) + rounds[0]

    @property
    def sampled_in_rehearsal(self) -> int:
        prompts = max(1, self.measured.part.train_prompts)
        return min(MEASURED_PROMPTS, prompts) if self.is_policy_gradient else prompts


def _ratio(whole: float, part: float) -> float:
    return whole / part if part else 0.0
