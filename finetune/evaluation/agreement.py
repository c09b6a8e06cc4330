"""The agreement of an LLM judge with the reviewers: the pairs to judge, and the stored measurement.

The reference is the order in leads' decisions of disputed tasks. If fewer than MIN_TASKS tasks are
decided, the majority of the rankings of other tasks is used too. Pairs that are tied in the reference
are left out, because every verdict on them would be half right.
"""

import random
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, zip_longest
from typing import Any

from finetune.engines import served
from finetune.evaluation import llm_judge
from finetune.models import JudgeAgreement, Model
from finetune.registry import model_of
from formatting.numbers import percent
from labeling.guidelines.versions import criteria_of
from labeling.models import Adjudication, GuidelineVersion, Project, Ranking, Response
from recipes.rundir import RunDir, write_json
from reward.run_files import read_report
from runs.kinds import CannotRun
from runs.models import Run

MIN_TASKS = 30
"""With fewer decided tasks than this, the majority of rankings is used in addition."""
DECISION, MAJORITY = "decision", "majority"
PAIRS_FILE = "pairs.json"

Order = tuple[int, int]
"""The id of the better response and the id of the worse one."""


def guideline_of(project: Project) -> GuidelineVersion:
    """Return the published guideline version of the project. Raises CannotRun if there is none."""
    if project.current_version is None:
        raise CannotRun(
            f"{project} has no published guideline, which an LLM judge needs as its instructions. "
            "Publish one first."
        )
    return project.current_version


def write_judge(run_dir: RunDir, model: Model) -> dict[str, Any]:
    """Write the files from which a recipe asks the judge. Return the facts for run.json.

    Raises CannotRun if the model cannot be asked, or without a published guideline.
    """
    endpoint, version = served.endpoint_of(model), guideline_of(model.project)
    text = version.text
    if criteria := criteria_of(version):
        text += "\n\nCriteria:\n" + "\n".join(f"- {c.name}: {c.meaning}" for c in criteria)
    served.write_endpoint(run_dir, endpoint, llm_judge.ENDPOINT_FILE)
    values = {"guideline": text, "guideline_version": version.number}
    write_json(run_dir.data / llm_judge.FILE, {**values, "secret": secrets.token_hex(16)})
    return {
        "judge_guideline_version": version.number,
        "judge_guideline_version_id": version.pk,
        "judge_instructions": llm_judge.instructions_hash(),
        "judge_endpoint_url": endpoint.url,
    }


# --- pairs ----------------------------------------------------------------------------------------


def reference_pairs(project: Project, limit: int, seed: int) -> list[dict[str, Any]]:
    """Return at most `limit` pairs, each with the text that the reviewers prefer as `better`.

    Each task gives one pair before any task gives a second. Decisions come first.
    """
    decided = {
        row["task_id"]: orders_of([row["tiers"]])
        for row in Adjudication.objects.filter(task__project=project, task__inactive=False)
        .order_by("id")
        .values("task_id", "tiers")
    }
    decided = {task: orders for task, orders in decided.items() if orders}
    chosen = [(order, DECISION) for order in _in_turn(decided, seed)]
    if len(decided) < MIN_TASKS:
        ranked = {t: o for t, o in _majorities(project).items() if t not in decided}
        chosen += [(order, MAJORITY) for order in _in_turn(ranked, seed)]
    ids = {pk for order, _ in chosen for pk in order}
    usable = Response.objects.filter(
        pk__in=ids, withdrawn_at=None, prompt__withdrawn_at=None
    ).select_related("prompt")
    responses = {response.pk: response for response in usable}
    pairs: list[dict[str, Any]] = []
    for (better, worse), source in chosen:
        if better in responses and worse in responses and len(pairs) < limit:
            first, second = responses[better], responses[worse]
            if first.text != second.text:
                pairs.append(
                    {
                        "key": f"{better}-{worse}",
                        "prompt_id": str(first.prompt_id),
                        "prompt": first.prompt.messages,
                        "better": first.text,
                        "worse": second.text,
                        "source": source,
                    }
                )
    return pairs


def _majorities(project: Project) -> dict[int, list[Order]]:
    """Return the pairs of each task that more than half of at least two rankings order the same way.

    Rankings by programs count only in a project whose reviewers are all simulated.
    """
    rankings = Ranking.objects.filter(
        task__project=project, task__inactive=False, superseded_at=None
    )
    if not project.simulated:
        rankings = rankings.exclude(source=Ranking.Source.SIMULATION)
        rankings = rankings.exclude(reviewer__simulated=True)
    by_task: dict[int, list[list[list[int]]]] = defaultdict(list)
    for task, tiers in rankings.order_by("task_id", "id").values_list("task_id", "tiers"):
        by_task[task].append(tiers)
    orders = {task: orders_of(rows) for task, rows in by_task.items() if len(rows) > 1}
    return {task: pairs for task, pairs in orders.items() if pairs}


def orders_of(rankings: Iterable[list[list[int]]]) -> list[Order]:
    """Return the pairs that more than half of the rankings which contain both order the same way.

    With two or more rankings, a pair needs at least two of them.
    """
    rows = list(rankings)
    votes: Counter[Order] = Counter()
    compared: Counter[frozenset[int]] = Counter()
    for tiers in rows:
        rank = {pk: index for index, tier in enumerate(tiers) for pk in tier}
        for first, second in combinations(sorted(rank), 2):
            compared[frozenset((first, second))] += 1
            if rank[first] != rank[second]:
                votes[(first, second) if rank[first] < rank[second] else (second, first)] += 1
    least = min(2, len(rows))
    return [
        order
        for order, count in sorted(votes.items())
        if compared[frozenset(order)] >= least and 2 * count > compared[frozenset(order)]
    ]


def _in_turn(orders: Mapping[int, list[Order]], seed: int) -> Iterator[Order]:
    """Yield a random pair of each task, in random order, then a second one of each, and so on."""
    rng = random.Random(seed)
    tasks = [rng.sample(pairs, len(pairs)) for _, pairs in sorted(orders.items())]
    rng.shuffle(tasks)
    for round_of_pairs in zip_longest(*tasks):
        yield from (order for order in round_of_pairs if order is not None)


# --- the run --------------------------------------------------------------------------------------


def limit_of(inputs: Mapping[str, Any]) -> int:
    limit = inputs.get("limit") or 200
    if not 2 <= limit <= 10_000:
        raise CannotRun(f"The maximum number of pairs must be from 2 to 10,000; it is {limit}.")
    return limit


def from_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    model = model_of(inputs)
    endpoint = served.endpoint_of(model)
    guideline_of(model.project)
    limit_of(inputs)
    return {"endpoint": endpoint.name, "model": model.base}


def prepare(run: Run, run_dir: RunDir) -> dict[str, Any]:
    model = model_of(run.inputs)
    facts = write_judge(run_dir, model)
    pairs = reference_pairs(model.project, limit_of(run.inputs), run.config["seed"])
    if len({pair["prompt_id"] for pair in pairs}) < 2:
        raise CannotRun(
            f"{model.project} has too few pairs of responses on which the reviewers agree. The judge "
            "is compared with decided disputes and with tasks that have at least two rankings."
        )
    write_json(run_dir.data / PAIRS_FILE, pairs)
    return {**facts, "pairs_written": len(pairs)}


def finish(run: Run, run_dir: RunDir) -> dict[str, Any]:
    model, report = model_of(run.inputs), read_report(run_dir)
    inputs = run_dir.spec()["inputs"]
    if report["agreement"]["value"] is None:
        raise CannotRun("The judge gave no readable verdict on any pair.")
    JudgeAgreement.objects.create(
        project=model.project,
        judge=model,
        run=run,
        guideline_version_id=inputs["judge_guideline_version_id"],
        instructions=inputs["judge_instructions"],
        report=report,
    )
    return {name: value for name, value in report.items() if name != "by_prompt"}


def figure(result: dict[str, Any]) -> str:
    value = (result.get("agreement") or {}).get("value")
    return "" if value is None else f"{percent(value)} agreement"
