"""The whole loop on the demo project: sample, rank, freeze, train a reward model, fine-tune, evaluate.

Each stage uses the results of an earlier start if there are any, so an interrupted loop can be continued.
"""

import random
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from accounts.models import User
from demo import project as demo_project
from demo import reviewers
from demo.apps import JUDGE
from demo.people import ensure_people, simulated_reviewer
from demo.progress import Steps
from finetune.models import Evaluation, Model
from labeling.importing import findings
from labeling.models import Project, Ranking, Task
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
TASK_BATCH_SIZE = 20
TEST_FRACTION = 0.25

REWARD: dict[str, Any] = {
    "learning_rate": 3e-3,
    "epochs": 5,
    "batch_size": 8,
    "micro_batch_size": 8,
}
GENERATE: dict[str, Any] = {"max_new_tokens": 96}
DPO: dict[str, Any] = {"learning_rate": 2e-3}
EVALUATE: dict[str, Any] = {"max_new_tokens": 96}


class DemoError(Exception):
    """Raised if a stage of the demo fails. The message names the stage and the reason."""


@dataclass
class Watcher:
    """The progress display, with a function to call while the loop waits for a run."""

    steps: Steps
    idle: Callable[[], None]


@dataclass
class Loop:
    project: Project
    seed: int
    trainer: User
    watcher: Watcher
    seconds: dict[str, float] = field(default_factory=dict)

    def stage(self, name: str, title: str, work: Callable[[], Any]) -> Any:
        self.watcher.steps.begin(title)
        started = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - started, 1)
        self.watcher.steps.done()
        return result

    def run(self, name: str, title: str, kind: str, config: dict, inputs: dict) -> Run:
        """Start the run of this stage, or find one that was started earlier, and wait until it ends."""
        return self.stage(name, title, lambda: self._wait(self._start(kind, config, inputs, title)))

    def _start(self, kind: str, config: dict, inputs: dict, title: str) -> Run:
        for attempt in count():
            request_id = uuid.uuid5(NAMESPACE, f"{self.project.slug}/{kind}/{attempt}")
            earlier = Run.objects.filter(request_id=request_id).first()
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

    def _wait(self, run: Run) -> Run:
        while run.state not in ENDED:
            self.watcher.steps.update(run.step / run.total_steps if run.total_steps else 0.0)
            self.watcher.idle()
            time.sleep(0.25)
            run.refresh_from_db()
        if run.state != State.SUCCEEDED:
            raise DemoError(f"Run {run} {run.get_state_display().lower()}: {run.error}")
        return run


def run_loop(seed: int, watcher: Watcher, prompts: int = PROMPTS) -> dict[str, Any]:
    """Run the loop on the demo project of `seed`, and return its figures. Raises DemoError."""
    people = ensure_people()
    project = demo_project.ensure_project(seed, people)
    base = demo_project.base_model(project)
    loop = Loop(project, seed, people["ada"], watcher)

    loop.stage("prompts", "Letters", lambda: demo_project.add_prompts(project, prompts, seed))
    loop.run("responses", "Sampling answers", "generate", GENERATE, {"model": base.pk})
    ranked = loop.stage("rankings", "Ranking (simulated reviewers)", lambda: simulate(loop))
    simulated = SnapshotFilter(
        sources=(Ranking.Source.SIMULATION,), test_fraction=TEST_FRACTION, seed=seed
    )
    snapshot = loop.stage(
        "snapshot", "Freezing a snapshot",
        lambda: freeze(project=project, filter=simulated, by=people["ada"]),
    )  # fmt: skip
    from_snapshot = {"snapshot": snapshot.pk}
    reward = loop.run(
        "reward", "Training a reward model", "reward",
        {**REWARD, "base_model": base.base}, from_snapshot,
    )  # fmt: skip
    tuned = loop.run(
        "dpo", "Fine-tuning with DPO", "dpo", DPO, {**from_snapshot, "model": base.pk}
    )  # fmt: skip
    evaluated = loop.run(
        "evaluation", "Comparing tuned with base on held-out letters", "evaluate", EVALUATE,
        {
            **from_snapshot, "candidate": tuned.model.pk, "baseline": base.pk, "judge": JUDGE,
            "comparisons": True, "verdicts_per_prompt": 1,
        },
    )  # fmt: skip
    evaluation = evaluated.evaluation
    loop.stage(
        "verdicts", "Comparing blindly (simulated reviewers)", lambda: compare(loop, evaluation)
    )
    promote(loop, evaluation.candidate)
    return figures(loop, snapshot, reward, evaluation, ranked)


def simulate(loop: Loop) -> int:
    """Let simulated reviewers rank all tasks except LEFT_FOR_PEOPLE; return the number of rankings."""
    of_project = Task.objects.filter(project=loop.project, kind=Task.Kind.RANKING)
    tasks = list(with_responses(of_project))
    simulate_all(
        loop, tasks[: len(tasks) - min(LEFT_FOR_PEOPLE, len(tasks) // 4)], RANKINGS_PER_TASK
    )
    return Ranking.objects.filter(task__in=of_project, superseded_at=None).count()


def compare(loop: Loop, evaluation: Evaluation) -> None:
    """Let a simulated reviewer answer each blind comparison of the evaluation."""
    comparisons = Task.objects.filter(pk__in=evaluation.items.values("task"))
    simulate_all(loop, list(with_responses(comparisons)), evaluation.verdicts_per_prompt or 1)


def promote(loop: Loop, model: Model) -> None:
    """Promote the tuned model if the reviewers' verdicts prove it better; otherwise leave it."""
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


def figures(
    loop: Loop, snapshot: Snapshot, reward: Run, evaluation: Evaluation, ranked: int
) -> dict[str, Any]:
    report = reward.reward_model.report
    win_rate, people = evaluation.report["win_rate"], evaluation.people()
    return {
        "reward_accuracy": report["accuracy"]["value"],
        "reward_accuracy_ci": report["accuracy"]["interval"],
        "reward_accuracy_ceiling": accuracy_ceiling(snapshot),
        "reviewer_agreement": report["reviewer_agreement"]["value"],
        "win_rate": win_rate["value"],
        "win_rate_ci": win_rate["interval"],
        "blind_win_rate": people and people.mean,
        "blind_win_rate_ci": people and list(people.interval),
        "conclusion": people and people.conclusion.value,
        "promoted": Model.objects.get(pk=evaluation.candidate_id).state == Model.State.PROMOTED,
        "rankings": ranked,
        "seed": loop.seed,
        "evaluation": evaluation_of(loop.seed),
        "stages": loop.seconds,
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
