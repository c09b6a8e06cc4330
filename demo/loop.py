"""The whole loop on the demo project: sample, rank, freeze, train a reward model, fine-tune, evaluate.

A round is one pass through the loop. The first round samples from the base. Each later round samples
from the promoted model, on new letters, and continues to train this model on the rankings of these
samples. Rankings of an earlier model's samples would make it worse (see LATER_DPO).

Each stage uses the results of an earlier start if there are any, so an interrupted loop can be continued.
"""

import random
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from django.db import transaction
from django.db.models import QuerySet

from accounts.models import User
from demo import project as demo_project
from demo import reviewers
from demo.apps import JUDGE
from demo.people import ensure_people, simulated_reviewer
from demo.progress import Steps
from finetune.models import Evaluation, Model
from finetune.statistics.means import mean_difference, mean_figure, sums_by_prompt
from labeling.importing import findings
from labeling.models import Project, Prompt, Ranking, Task
from labeling.rankings import recording
from labeling.rankings.content import Content
from recipes.preferences.groups import read_groups
from reward.models import Snapshot
from reward.preferences.filters import SnapshotFilter
from reward.preferences.snapshots import freeze
from reward.promotion import CannotMove
from runs import services
from runs.models import ENDED, Run, State

NAMESPACE = uuid.UUID("6f0d2c3e-6a0e-4b8c-9f43-0d6c0f1b7a11")
PROMPTS = 720
LEFT_FOR_PEOPLE = 24
RANKINGS_PER_TASK = 4
LATER_VERDICTS = len(reviewers.CREW)
"""Verdicts per prompt in later rounds, whose gains are smaller. The first round needs only one."""
TASK_BATCH_SIZE = 20
TEST_FRACTION = 0.25

REWARD: dict[str, Any] = {
    "learning_rate": 3e-3,
    "epochs": 5,
    "batch_size": 8,
    "micro_batch_size": 8,
}
GENERATE: dict[str, Any] = {"max_new_tokens": 96}
DPO: dict[str, Any] = {"learning_rate": 2e-3, "evaluations": 2}
LATER_DPO: dict[str, Any] = {**DPO, "learning_rate": 5e-4}
"""The settings of later rounds, which continue to train a model that is already tuned.

Measured on held-out letters: in a second round with 360 letters, the rule's mean score rose from 7.7 to
8.4, and in a third one, with twice as many rankings, from 8.2 to 8.7. With the learning rate of the
first round, and the rankings of both rounds, it fell from 7.7 to 6.8, and one answer in ten did not end.
"""
EVALUATE: dict[str, Any] = {"max_new_tokens": 96}
REWARD_TITLE = "Training a reward model"


class DemoError(Exception):
    """Raised if a stage of the demo fails. The message names the stage and the reason."""


@dataclass
class Watcher:
    """The progress display, with a function to call while the loop waits for a run."""

    steps: Steps
    idle: Callable[[], None]


@dataclass
class Loop:
    """The state of a loop on a project. `round` is the number of the current round, from 1."""

    project: Project
    seed: int
    trainer: User
    watcher: Watcher
    round: int = 1
    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str, title: str, work: Callable[[], Any]) -> Any:
        later = self.round > 1
        self.watcher.steps.begin(f"Round {self.round}: {title}" if later else title)
        started = time.monotonic()
        result = work()
        seconds = round(time.monotonic() - started, 1)
        self.seconds[f"{name}-{self.round}" if later else name] = seconds
        self.watcher.steps.done()
        return result

    def run(self, name: str, title: str, kind: str, config: dict, inputs: dict) -> Run:
        """Start the run of this stage, or find one that was started earlier, and wait until it ends."""
        return self.wait(name, title, self.start(title, kind, config, inputs))

    def wait(self, name: str, title: str, run: Run) -> Run:
        """Wait, as a stage, until a run ends. Raises DemoError if it does not succeed."""
        return self.stage(name, title, lambda: self._wait(run))

    def start(self, title: str, kind: str, config: dict, inputs: dict) -> Run:
        """Start a run, or find one that was started earlier, without waiting for it."""
        for attempt in count():
            earlier, request_id = self.earlier(kind, attempt)
            if earlier is None:
                break
            if earlier.state not in {State.FAILED, State.CANCELLED}:
                return earlier
        return services.start(
            kind,
            {**config, "seed": self.seed},
            self.trainer,
            inputs={**inputs, "project": self.project.pk},
            title=f"{self.project.name}: {title}",
            request_id=request_id,
        )

    def earlier(self, kind: str, attempt: int = 0) -> tuple[Run | None, uuid.UUID]:
        """Return the run of this kind that an earlier start of the round made, and its request id."""
        of_round = "" if self.round == 1 else f"/round {self.round}"
        request_id = uuid.uuid5(NAMESPACE, f"{self.project.slug}/{kind}/{attempt}{of_round}")
        return Run.objects.filter(request_id=request_id).first(), request_id

    def _wait(self, run: Run) -> Run:
        while run.state not in ENDED:
            self.watcher.steps.update(run.step / run.total_steps if run.total_steps else 0.0)
            self.watcher.idle()
            time.sleep(0.25)
            run.refresh_from_db()
        if run.state != State.SUCCEEDED:
            raise DemoError(f"Run {run} {run.get_state_display().lower()}: {run.error}")
        return run


def run_loop(
    seed: int, watcher: Watcher, prompts: int = PROMPTS, rounds: int = 1
) -> dict[str, Any]:
    """Run the loop on the demo project of `seed`, and return its figures. Raises DemoError.

    Each round has `prompts` letters of its own.
    """
    people = ensure_people()
    project = demo_project.ensure_project(seed, people)
    loop = Loop(project, seed, people["ada"], watcher)
    results = []
    for loop.round in range(1, rounds + 1):
        results.append(run_round(loop, prompts))
    return {
        **results[0].figures(),
        "rounds": [result.round_figures() for result in results],
        "rankings": Ranking.objects.filter(
            task__project=project, task__kind=Task.Kind.RANKING, superseded_at=None
        ).count(),
        "seed": seed,
        "evaluation": evaluation_of(seed),
        "stages": loop.seconds,
    }


def run_round(loop: Loop, prompts: int) -> "Result":
    """Run a round, which promotes its model if the verdicts prove that it is better."""
    project, base = loop.project, demo_project.base_model(loop.project)
    promoted = project.models.filter(state=Model.State.PROMOTED).first() or base
    letters = loop.stage(
        "prompts", "Letters",
        lambda: demo_project.add_prompts(project, prompts, loop.seed, loop.round),
    )  # fmt: skip
    loop.run("responses", "Sampling answers", "generate", GENERATE, {"model": promoted.pk})
    loop.stage("rankings", "Ranking (simulated reviewers)", lambda: simulate(loop, letters))
    snapshot = loop.stage("snapshot", "Freezing a snapshot", lambda: snapshot_of(loop, letters))
    from_snapshot = {"snapshot": snapshot.pk}
    # Neither needs the other, and a small model does not keep all cores busy.
    rewarded = loop.start(
        REWARD_TITLE, "reward", {**REWARD, "base_model": base.base}, from_snapshot
    )
    tuned = loop.run(
        "dpo", "Fine-tuning with DPO", "dpo", DPO if promoted == base else LATER_DPO,
        {**from_snapshot, "model": promoted.pk},
    )  # fmt: skip
    evaluated = loop.run(
        "evaluation", f"Comparing tuned with {'base' if promoted == base else 'promoted'} on held-out letters",
        "evaluate", EVALUATE,
        {
            "snapshot": held_out_of(loop, snapshot).pk, "candidate": tuned.model.pk,
            "baseline": promoted.pk, "judge": JUDGE, "comparisons": True,
            "verdicts_per_prompt": 1 if loop.round == 1 else LATER_VERDICTS,
        },
    )  # fmt: skip
    evaluation = evaluated.evaluation
    loop.stage(
        "verdicts", "Comparing blindly (simulated reviewers)", lambda: compare(loop, evaluation)
    )
    promote(loop, evaluation.candidate)
    reward = loop.wait("reward", REWARD_TITLE, rewarded)
    return Result(loop.round, snapshot, reward, evaluation)


def snapshot_of(loop: Loop, letters: QuerySet[Prompt]) -> Snapshot:
    """Return the snapshot of the round, which has only the simulated rankings of its letters."""
    earlier, _ = loop.earlier("reward")
    if earlier:
        return Snapshot.objects.get(pk=earlier.inputs["snapshot"])
    if loop.round == 1:
        return freeze_simulated(loop)
    return freeze_simulated(loop, versions=sorted(versions_of(letters)))


def held_out_of(loop: Loop, snapshot: Snapshot) -> Snapshot:
    """Return a snapshot with the held-out letters of all rounds. No model was trained on them."""
    earlier, _ = loop.earlier("evaluate")
    if earlier:
        return Snapshot.objects.get(pk=earlier.inputs["snapshot"])
    return snapshot if loop.round == 1 else freeze_simulated(loop)


def freeze_simulated(loop: Loop, versions: Sequence[int] | None = None) -> Snapshot:
    """Freeze the simulated rankings under these guideline versions, by default under all."""
    simulated = SnapshotFilter(
        sources=(Ranking.Source.SIMULATION,), guideline_versions=tuple(versions) if versions else None,
        test_fraction=TEST_FRACTION, seed=loop.seed,
    )  # fmt: skip
    return freeze(project=loop.project, filter=simulated, by=loop.trainer)


def versions_of(letters: QuerySet[Prompt]) -> set[int]:
    """Return the ids of the guideline versions under which simulated reviewers ranked these letters."""
    rankings = Ranking.objects.filter(
        task__prompt__in=letters,
        task__kind=Task.Kind.RANKING,
        source=Ranking.Source.SIMULATION,
    )
    return set(rankings.values_list("guideline_version", flat=True).distinct())


def simulate(loop: Loop, letters: QuerySet[Prompt]) -> None:
    """Let simulated reviewers rank the tasks of these letters. The first round leaves some for people.

    Before a later round, the guideline is published again without a change. Snapshots select rankings
    by the guideline version, so this separates the rankings of the rounds.
    """
    if loop.round > 1 and not versions_of(letters):
        note = f"Round {loop.round} of the demo. The rules are the same."
        demo_project.publish_again(loop.project, loop.trainer, note)
    of_letters = Task.objects.filter(prompt__in=letters, kind=Task.Kind.RANKING)
    tasks = list(with_responses(of_letters))
    left = min(LEFT_FOR_PEOPLE, len(tasks) // 4) if loop.round == 1 else 0
    simulate_all(loop, tasks[: len(tasks) - left], RANKINGS_PER_TASK)


def compare(loop: Loop, evaluation: Evaluation) -> None:
    """Let simulated reviewers answer the blind comparisons of the evaluation."""
    comparisons = Task.objects.filter(pk__in=evaluation.items.values("task"))
    simulate_all(loop, list(with_responses(comparisons)), evaluation.verdicts_per_prompt or 1)


def promote(loop: Loop, model: Model) -> None:
    """Promote the tuned model if the reviewers' verdicts prove it better; otherwise leave it.

    A model that was promoted by an earlier start may have been replaced by a later round.
    """
    if model.certificates.exists():
        return
    with suppress(CannotMove):
        model.promote(by=loop.trainer)


def with_responses(tasks: QuerySet[Task]) -> QuerySet[Task]:
    return tasks.order_by("pk").select_related("prompt").prefetch_related("responses")


def simulate_all(loop: Loop, tasks: list[Task], rankings: int) -> None:
    """Let simulated reviewers, in turn, give each task this many rankings."""
    crew = [(reviewer, simulated_reviewer(reviewer.name)) for reviewer in reviewers.CREW]
    for first in range(0, len(tasks), TASK_BATCH_SIZE):
        with transaction.atomic():
            for number, task in enumerate(tasks[first : first + TASK_BATCH_SIZE], start=first):
                if task.held:  # some replies of the tiny model are incomplete, which is expected
                    findings.release(project=loop.project, task_id=task.pk, by=loop.trainer)
                for turn in range(rankings):
                    simulate_one(loop, task, *crew[(number + turn) % len(crew)])
        loop.watcher.steps.update(first / len(tasks))
        loop.watcher.idle()


def simulate_one(loop: Loop, task: Task, reviewer: reviewers.Reviewer, user: User) -> None:
    responses = sorted(task.responses.all(), key=lambda response: response.pk)
    kind = "" if task.kind == Task.Kind.RANKING else f" {task.kind}"
    rng = random.Random(f"{loop.seed} {task.prompt.external_id} {reviewer.name}{kind}")
    shown = rng.sample(responses, len(responses))
    ranking = reviewers.rank(
        reviewer, task.prompt.messages, [response.text for response in shown], rng
    )
    recording.record(
        task=task,
        reviewer=user,
        source=Ranking.Source.SIMULATION,
        content=Content(
            [[shown[index].pk for index in tier] for tier in ranking.tiers],
            cut=ranking.cut,
            ratings={str(shown[n].pk): ratings for n, ratings in enumerate(ranking.ratings)},
            rationale=ranking.rationale,
            active_seconds=ranking.active_seconds,
        ),
        shown_order=[response.pk for response in shown],
        idempotency_key=uuid.uuid5(NAMESPACE, f"{task.pk}/{user.pk}"),
    )


@dataclass(frozen=True)
class Result:
    """The results of a round."""

    round: int
    snapshot: Snapshot
    reward: Run
    evaluation: Evaluation

    def round_figures(self) -> dict[str, Any]:
        """Return the win rates of the round's model, and the scores of both models by the rule."""
        win_rate, people = self.evaluation.report["win_rate"], self.evaluation.people()
        items = self.evaluation.items.values_list("prompt_id", "candidate_score", "baseline_score")
        scores = [
            (prompt, own, before)
            for prompt, own, before in items
            if own is not None and before is not None
        ]
        change = mean_difference(scores)
        sums = sums_by_prompt([row[0] for row in scores], np.array([row[1] for row in scores]))
        return {
            "round": self.round,
            "win_rate": win_rate["value"],
            "win_rate_ci": win_rate["interval"],
            "blind_win_rate": people and people.mean,
            "blind_win_rate_ci": people and list(people.interval),
            "rule_score": change["candidate"],
            "rule_score_ci": mean_figure(*sums, 0, missing="No letter was judged.")["interval"],
            "rule_score_before": change["baseline"],
            "rule_score_change": change["value"],
            "rule_score_change_ci": change["interval"],
            "conclusion": people and people.conclusion.value,
            "promoted": self.evaluation.candidate.certificates.exists(),
        }

    def figures(self) -> dict[str, Any]:
        report = self.reward.reward_model.report
        return {
            "reward_accuracy": report["accuracy"]["value"],
            "reward_accuracy_ci": report["accuracy"]["interval"],
            "reward_accuracy_ceiling": accuracy_ceiling(self.snapshot),
            "reviewer_agreement": report["reviewer_agreement"]["value"],
            **self.round_figures(),
        }


def evaluation_of(seed: int) -> str | None:
    """Return the time of the demo's first evaluation, which identifies the database, or None."""
    evaluations = Evaluation.objects.filter(project__slug=demo_project.slug_of(seed))
    first = evaluations.order_by("id").first()
    return first.created_at.isoformat() if first else None


def accuracy_ceiling(snapshot: Snapshot) -> float:
    """Return the accuracy of the guideline's rule on the held-out labels, which no model can exceed."""
    held_out = [group for group in read_groups(snapshot.file) if group.split == "test"]
    return reviewers.noise_ceiling(held_out)
