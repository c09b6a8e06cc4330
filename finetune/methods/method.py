"""The base class of fine-tuning methods, and their registry.

To add a method, write `finetune/methods/NAME.py`:

1. A settings class, a subclass of `FinetuneSettings` (finetune/settings.py).
2. A subclass of `Method`, with a name, a title, a paper, the data (`loss_inputs`, `prepare`) and the
   loss (`loss`).
3. `METHOD = ItsClass`.
4. A test of the loss against numbers worked out by hand, and of a run.

A method whose data changes while it trains, such as rounds of sampling, names its own `program`,
which may use `fit` of finetune/training/fitting/trainer.py.

Legend: G groups, K responses in the largest group.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from finetune import methods
from finetune.settings import FinetuneSettings, PolicyGradientSettings
from recipes.preferences.groups import Group
from recipes.preferences.loss_inputs import (
    LossInputs,
    compared,
    plain_loss_inputs,
    why_no_comparison,
)
from reward.evaluation.report import split_counts

if TYPE_CHECKING:
    from torch import Tensor

    from recipes.preferences.tokens import Prepared, TokenGroup

Loss = Callable[["PolicyOutputs", "Batch"], tuple["Tensor", "Tensor"]]
"""(outputs, batch) → the loss of each group, (G,), and the scores of its responses, (G, K)."""
PolicyOutputs = Mapping[str, "Tensor"]
"""`logps`: Σ log π of each response, (G, K) float64, 0 if missing. `counts`: its tokens, (G, K)."""
Batch = Mapping[str, "Tensor"]
"""The signals of `loss_inputs`, padded to K responses, and `reference`: Σ log π_ref, (G, K).

A method can also ask for mismatched responses: prompts that are each followed by the responses to
another prompt (as KTO does). Then the batch also has `drift`, (): the mean of
log π - log π_ref over the mismatched responses of the step. It estimates how far the policy has moved
from the reference on any text, and the gradient does not flow through it.
"""


class Method:
    """A way to fine-tune a model on ranked responses. Each run has an object with its settings.

    name         the run kind, the value of `--method`, and the ending of the new model's name
    title        the name on pages
    description  a sentence about what it does
    paper        the method and its source, as a phrase that follows "by" in the model card
    settings     the settings class
    program      the recipe, run as `python -m PROGRAM RUN_DIR`
    multi_gpu    whether the recipe can use several GPUs
    reward_model whether the run needs a reward model. If so, its folder is in the settings
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    paper: ClassVar[str]
    settings: ClassVar[type[FinetuneSettings]] = FinetuneSettings
    program: ClassVar[str] = "finetune.training.train"
    multi_gpu: ClassVar[bool] = True
    reward_model: ClassVar[bool] = False
    lacking: ClassVar[str] = "two readable responses that somebody compared"
    """The requirement for a training prompt. It is named in the error of a run without data."""

    def __init__(self, config: Any):
        self.config = config

    def loss_inputs(self, group: Group) -> LossInputs:
        """Return the arrays of a group that the loss reads. They have a value per response or pair."""
        return plain_loss_inputs(group)

    def objection(self, group: Group, inputs: LossInputs) -> str | None:
        """Return the reason to leave out a group, as a clause, or None.

        By default, a group must compare at least two responses.
        """
        return why_no_comparison(group, inputs)

    def prepare(self, prepared: "Prepared") -> None:
        """Change the data after all groups were read, for example to normalise their weights.

        Raises RecipeError if the method cannot be trained on the data.
        """

    def notes(self, prepared: "Prepared") -> list[str]:
        """Return messages about the prepared data, for the log of the run."""
        return []

    def learned_from(self, prepared: "Prepared") -> str:
        """Return a description of the training data, as a phrase for the model card."""
        counts = split_counts(prepared.groups)["train"]
        return (
            f"the preferences of reviewers: {counts['pairs']} pairs of {counts['responses']} responses "
            f"to {counts['prompts']} prompts"
        )

    def trained_responses(self, group: "TokenGroup") -> list[bool]:
        """Return for each response of a prepared group whether the loss reads it.

        By default, it reads the responses that were compared or that have signals of their own.
        """
        return compared(group)

    @property
    def trains_on_reference(self) -> bool:
        """Return whether the loss reads `batch["reference"]`."""
        return True

    def loss(self, groups: Sequence[Group]) -> Loss:
        """Return the loss of a run on these training groups. Imports torch."""
        raise NotImplementedError

    def scores(self, logps: Any, reference: Any, counts: Any) -> Any:
        """Return the implicit reward of responses, from arrays or tensors of the same shape.

        The report orders held-out responses by it.
        """
        return logps - reference


class SampledMethod(Method):
    """Base class of methods that learn from the model's own samples, scored by a reward model."""

    program = "finetune.training.online"
    multi_gpu = False
    reward_model = True
    lacking = "two different samples with scores"


class PolicyGradientMethod(SampledMethod):
    """Base class of methods that follow the gradient of the expected reward with a trainer of TRL.

    A method names TRL's trainer in `trainer_classes` and passes its options on in `arguments`.
    """

    program = "finetune.training.policy_gradient"
    trains_on_reference = False
    settings = PolicyGradientSettings
    config: PolicyGradientSettings

    def trainer_classes(self) -> tuple[type, type]:
        """Return TRL's trainer, and the class of its arguments. Imports torch."""
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that follow from the method's own options."""
        return {}

    def learned_from(self, prepared: "Prepared") -> str:
        config, prompts = self.config, len(prepared.groups["train"])
        return (
            f"{config.samples_per_prompt} samples of its own to each of {prompts} prompts, scored by a "
            "reward model"
        )


def all_methods() -> list[type[Method]]:
    """Return the methods by name. DPO comes first."""
    modules = (
        importlib.import_module(f"{methods.__name__}.{module.name}")
        for module in pkgutil.iter_modules(methods.__path__)
    )
    registered = [module.METHOD for module in modules if hasattr(module, "METHOD")]
    return sorted(registered, key=lambda method: (method.name != "dpo", method.name))


def method_named(name: str) -> type[Method]:
    """Return the method with this name. Raises KeyError."""
    return {method.name: method for method in all_methods()}[name]
