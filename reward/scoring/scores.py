"""The kind of run that scores a project's responses with a reward model."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.db.models import Exists, OuterRef, QuerySet
from django.urls import reverse

from labeling.models import Response
from recipes.machine import faults
from recipes.preferences.groups import messages_type
from recipes.rundir import RunDir, atomically
from reward.forms import ScoreInputs
from reward.models import ResponseScore, RewardModel
from reward.ordering import queue
from reward.run_files import read_report, reward_model_of
from reward.scoring.settings import ScoreConfig
from runs.kinds import RESPONSES, CannotRun, Config, Inputs, RunKind, options_of
from runs.models import Run

if TYPE_CHECKING:
    import pyarrow as pa

ROW_BATCH_SIZE = 2000
PROMPT_BATCH_SIZE = 500


@cache
def to_score() -> "pa.Schema":
    """Return the schema of the file of responses to score."""
    import pyarrow as pa  # takes 30 MB, so only runs import it

    return pa.schema(
        [
            ("prompt", messages_type()),
            ("response_ids", pa.list_(pa.int64())),
            ("responses", pa.list_(pa.string())),
        ]
    )


def model_of(inputs: Mapping[str, Any]) -> RewardModel:
    """Return the reward model of an open project that the inputs name. Raises CannotRun."""
    model = reward_model_of(inputs)
    if model.project.archived_at:
        raise CannotRun(f"{model.project} is archived, so its responses cannot be scored.")
    return model


def unscored(model: RewardModel) -> QuerySet[Response]:
    """Return the responses of the project that the model has not scored."""
    scored = ResponseScore.objects.filter(reward_model=model, response=OuterRef("pk"))
    return Response.objects.filter(
        ~Exists(scored),
        prompt__project=model.project_id,
        prompt__withdrawn_at=None,
        withdrawn_at=None,
    )


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    model = model_of(inputs)
    queue.check_inputs(model.project, inputs)
    if not inputs.get("order") and not unscored(model).exists():
        raise CannotRun(f"{model} has already scored every response of {model.project}.")
    return {"reward_model": model.path}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    """Write the responses without a score to the run directory, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    model = model_of(run.inputs)
    model.folder_to_load()
    counts = {"responses_to_score": 0}
    with (
        atomically(run_dir.data / "responses.parquet") as draft,
        pq.ParquetWriter(draft, to_score()) as writer,
    ):
        for batch in _in_batches(_prompts(unscored(model))):
            counts["responses_to_score"] += sum(len(row["response_ids"]) for row in batch)
            writer.write_table(pa.Table.from_pylist(batch, schema=to_score()))
    return counts


def _prompts(responses: QuerySet[Response]) -> Iterator[dict[str, Any]]:
    rows = responses.order_by("prompt_id", "id").values_list(
        "prompt_id", "pk", "text", "prompt__messages"
    )
    for _, group in groupby(rows.iterator(chunk_size=ROW_BATCH_SIZE), itemgetter(0)):
        members = list(group)
        yield {
            "prompt": members[0][3],
            "response_ids": [row[1] for row in members],
            "responses": [row[2] for row in members],
        }


def _in_batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == PROMPT_BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    model, report = model_of(run.inputs), read_report(run_dir)
    stored = store(model, run_dir.output / "scores.parquet")
    result = {name: report[name] for name in ("scored", "unread")}
    result |= {"reward_model": model.pk, "stored": stored}
    if run.inputs.get("order"):
        try:
            order = queue.put_in_order(
                model=model,
                by=run.created_by,
                share=run.inputs.get("random_share"),
            )
        except queue.CannotOrder as error:
            return {**result, "order": str(error)}
        result |= {"order": order.pk, **order.counts}
    return result


def store(model: RewardModel, path: Path) -> int:
    """Store the scores of a file, and return how many are new.

    Responses that were deleted in the meantime are skipped.
    """
    before = ResponseScore.objects.filter(reward_model=model).count()
    for batch in _score_rows(path):
        rows = {row["response_id"]: row for row in batch}
        existing = Response.objects.filter(pk__in=rows, prompt__project=model.project_id)
        ResponseScore.objects.bulk_create(
            [
                ResponseScore(
                    reward_model=model,
                    response_id=pk,
                    score=rows[pk]["score"],
                    uncertainty=rows[pk]["uncertainty"],
                    features=rows[pk]["features"],
                )
                for pk in existing.values_list("pk", flat=True)
            ],
            ignore_conflicts=True,
        )
    return ResponseScore.objects.filter(reward_model=model).count() - before


def _score_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in batches. Raises CannotRun if the file is missing or damaged."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROW_BATCH_SIZE):
                yield batch.to_pylist()
    except faults.table_errors() as error:
        raise CannotRun(faults.table_problem(path, error)) from error


def figure(result: dict[str, Any]) -> str:
    return f"{result['scored']:,} responses" if "scored" in result else ""


def links(run: Run) -> list[tuple[str, str]]:
    model = RewardModel.objects.filter(pk=run.result.get("reward_model")).first()
    if model is None:
        return []
    return [
        (f"Scores and queue of {model.project}", reverse("queue-order", args=[model.project.slug]))
    ]


def command(inputs: Inputs, config: Config) -> list[str]:
    options = options_of(
        model=inputs["reward_model"], order=inputs["order"], random_share=inputs["random_share"]
    )
    return ["score_responses", *options]


SCORE = RunKind(
    name="score",
    title="Scores",
    description="Scores every response of a project with its reward model, and can order the waiting tasks "
    "by expected information.",
    config_class=ScoreConfig,
    module="reward.training.score_project",
    prepare=prepare,
    finish=finish,
    project_of=lambda inputs: model_of(inputs).project_id,
    inputs_form=ScoreInputs,
    from_inputs=from_inputs,
    decided=frozenset({"reward_model"}),
    command=command,
    folders=frozenset({"reward_model"}),
    figure=figure,
    links=links,
    group=RESPONSES,
)
