"""Fine-tune a LoRA adapter on the model's own samples, which a reward model ranks, in rounds.

    python -m finetune.training.online RUN_DIR

RUN_DIR has the same files as for finetune/training/train.py, and the settings also name the folder of
a reward model. Of the train split, only the prompts are used. The held-out prompts keep the rankings
of people, which the report uses. Each round has three steps:

1. The current model samples K responses to each prompt.
2. The reward model scores the responses. The scores give a ranking, with ties within a margin.
3. The model is trained on the rankings. The reference is the original model in all rounds.

Each round has a run directory, parts/round-N. It gets batches of samples, then samples.parquet with
the scores, then checkpoints of the training, and finally weights.safetensors. A stopped run continues
after the last complete file, and gives the same weights as an uninterrupted run.

Deliberately not implemented:
- several GPUs: sampling uses one
- updates of the sampling model within a round: more rounds with fewer prompts have the same effect
- training on the sampled tokens: the text is tokenized again, as it is when the model is served

Legend: K responses of a prompt.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

from safetensors.torch import load_file, save_file

from finetune.evaluation.rounds import Samples, by_prompt, curve_point, score_change, sentence
from finetune.report import RoundFigures, SampledReport
from finetune.settings import RankedSamplesSettings
from finetune.training.fitting.trainer import Fitted, fit
from finetune.training.samples import (
    SampledRun,
    prompts_of_round,
    read_data,
    refuse_several_processes,
)
from finetune.training.train import publish_run, report_data, report_of, set_up
from recipes.models.adapter import restore, trained_weights
from recipes.preferences.groups import RESPONSES_CUT_OFF, Group, Judgment
from recipes.preferences.tokens import Prepared, no_training_data, prepare
from recipes.rundir import RunDir
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training import checkpoints
from recipes.training.parts import Part
from reward.evaluation.schema import Figure

REVIEWER = "reward model"


def online(run_dir: RunDir, stop: StopSignal) -> None:
    refuse_several_processes()
    setup = set_up(run_dir)
    run_dir.stage("Reading the data")
    prompts, held_out = read_data(run_dir)
    rounds = Rounds(run_dir, setup, prompts, held_out, stop)
    fitted, prepared = rounds.train()
    after, change = rounds.measure()
    report: SampledReport = {
        **report_of(run_dir, setup, fitted, prepared),
        "rounds": rounds.figures,
        "after": after,
        "score_change": change,
    }
    publish_run(run_dir, setup, report, "score_change")


@dataclass
class Rounds(SampledRun):
    """The rounds of a run. `figures` has an entry for each round that has begun."""

    figures: list[RoundFigures] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config = cast(RankedSamplesSettings, self.method.config)

    def train(self) -> tuple[Fitted, Prepared]:
        """Run all incomplete rounds, and return the training and the data of the last round.

        The last round has no file of weights, because its training resumes from its own checkpoint.
        """
        total = self.config.number_of_rounds
        for number in range(1, total):
            part = self.part(f"round-{number}", f"Round {number} of {total}")
            weights = part.path / "weights.safetensors"
            checkpoints.delete_if_damaged(part, weights)
            if not weights.exists():
                self.round(part, number)
                with checkpoints.sealed(weights) as draft:
                    save_file(trained_weights(self.policy), draft)
            else:
                self.figures.append(self.stored_figures(part))
                restore(self.policy, load_file(weights))
            for path in part.checkpoints.glob("checkpoint-*"):
                shutil.rmtree(path)
        return self.round(self.part(f"round-{total}", f"Round {total} of {total}"), total)

    def round(self, part: Part, number: int) -> tuple[Fitted, Prepared]:
        """Sample, score and train. The policy must have the weights of the previous round."""
        samples = self.samples_of_round(part, number)
        figures = self.figures_of(part, samples)
        self.figures.append(figures)
        self.run_dir.message(f"{part.title}: {sentence(figures)}")
        self.run_dir.emit(
            "progress",
            step=number - 1,
            total=self.config.number_of_rounds,
            epoch=float((number - 1) * self.config.epochs),
            metrics=curve_point(figures),
        )
        self.answers.answer(number - 1, self.config.number_of_rounds)
        prepared = self.prepare(part, samples)
        report_data(part, self.method, prepared, self.setup.limit)
        method, policy, config = self.method, self.policy, self.config
        fitted = fit(
            part, config, method, policy, self.setup.tokenizer, prepared, self.stop, self.reference
        )
        return fitted, prepared

    def samples_of_round(self, part: Part, number: int) -> Samples:
        """Return the scored samples of a round. If their file exists, they are read from it."""
        config = self.config
        prompts = prompts_of_round(self.prompts, number, config.prompts_per_round, config.seed)
        return self.samples(part, prompts, config.sampling_of_round(number))

    # --- data -------------------------------------------------------------------------------------

    def prepare(self, part: Part, samples: Samples) -> Prepared:
        """Return the ranked samples as the train split, and the held-out prompts of the run."""
        groups = [
            rank_group(prompt, self.messages[prompt], rows, self.config.tie_margin)
            for prompt, rows in by_prompt(samples).items()
        ]
        method = self.method
        prepared = prepare(
            chain(groups, self.held_out),
            self.chat,
            self.setup.limit,
            method.loss_inputs,
            method.objection,
        )
        if not prepared.tokens["train"]:
            raise no_training_data(part, prepared, method.lacking)
        method.prepare(prepared)
        return prepared

    # --- figures ----------------------------------------------------------------------------------

    def measure(self) -> tuple[RoundFigures, Figure]:
        """Return the figures of samples of the trained model, and the change of their score.

        The trained model answers the prompts of the first round with the same seeds.
        """
        part = self.part("after", "After training")
        before = self.samples_of_round(self.part("round-1", "Round 1"), 1)
        after = self.samples_of_round(part, 1)
        figures = self.figures_of(part, after)
        self.run_dir.message(f"{part.title}: {sentence(figures)}")
        total = self.config.number_of_rounds
        self.run_dir.emit(
            "progress",
            step=total,
            total=total,
            epoch=float(total * self.config.epochs),
            metrics=curve_point(figures),
        )
        self.answers.answer(total, total)
        return figures, score_change(before, after, self.config.seed)


# --- rankings --------------------------------------------------------------------------------------


def rank_group(
    prompt_id: str, messages: list[dict[str, str]], rows: Samples, margin: float
) -> Group:
    """Return a group with the different samples that have a score, ranked by their score.

    A text that was sampled several times is one response.
    """
    different: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["score"] is not None:
            different.setdefault(row["response"], row)
    ids = list(range(len(different)))
    scores = [row["score"] for row in different.values()]
    return Group(
        prompt_id,
        messages,
        ids,
        list(different),
        [Judgment(REVIEWER, tiers_of(scores, margin))],
        meta={RESPONSES_CUT_OFF: [row["truncated"] for row in different.values()]},
    )


def tiers_of(scores: Sequence[float], margin: float) -> list[list[int]]:
    """Return the indices of the scores in tiers, best first.

    The scores of a tier are at most `margin` below the best score of the tier.
    """
    tiers: list[list[int]] = []
    for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
        if tiers and scores[tiers[-1][0]] - scores[index] <= margin:
            tiers[-1].append(index)
        else:
            tiers.append([index])
    return tiers


RECIPE = online
"""The recipe that `python -m recipes.preflight` rehearses."""


if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, __doc__ or ""))
