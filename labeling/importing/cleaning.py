"""Replace or cut values that the database cannot store, and count the changes."""

from dataclasses import replace
from typing import Any

from accounts.models import User
from labeling.core.text import storable
from labeling.importing.records import (
    PromptRecord,
    RankingRecord,
    ResponseRecord,
    Tally,
    TaskRecord,
)

MAX_ID_LENGTH = 200
MAX_MODEL_LENGTH = 300
REPLACED = "prompts with characters that cannot be stored, replaced by U+FFFD"


def storable_record(record: PromptRecord, tally: Tally) -> PromptRecord:
    """Return the record with storable values, and with reviewers' names normalised as in accounts."""
    clean = PromptRecord(
        record.line,
        [{name: storable(text) for name, text in m.items()} for m in record.messages],
        [_response(response) for response in record.responses],
        [_task(task) for task in record.tasks],
        storable(record.external_id),
        storable_json(record.meta),
    )
    if _texts(clean) != _texts(record):
        tally.changed[REPLACED] += 1
    return _shortened(clean, tally)


def storable_json(value: Any) -> Any:
    """Return a JSON value in which characters that PostgreSQL cannot store are replaced."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable(str(key)): storable_json(item) for key, item in value.items()}
    return [storable_json(item) for item in value] if isinstance(value, list) else value


def _response(response: ResponseRecord) -> ResponseRecord:
    return replace(
        response,
        text=storable(response.text),
        model=storable(response.model),
        external_id=storable(response.external_id),
        sampling=storable_json(dict(response.sampling)),
    )


def _task(task: TaskRecord) -> TaskRecord:
    return replace(
        task,
        rankings=[_ranking(ranking) for ranking in task.rankings],
        external_id=storable(task.external_id),
    )


def _ranking(ranking: RankingRecord) -> RankingRecord:
    name = User.normalize_username(storable(ranking.reviewer))
    rationale = ranking.rationale
    if isinstance(rationale, str):
        rationale = storable(rationale)
    ratings = {index: storable_json(rated) for index, rated in ranking.ratings.items()}
    if (name, rationale, ratings) == (ranking.reviewer, ranking.rationale, ranking.ratings):
        return ranking
    return replace(ranking, reviewer=name, rationale=rationale, ratings=ratings)


def _texts(record: PromptRecord) -> Any:
    rankings = [(r.rationale, r.ratings) for task in record.tasks for r in task.rankings]
    responses = [(r.text, r.model, r.external_id, r.sampling) for r in record.responses]
    ids = [record.external_id, *(task.external_id for task in record.tasks)]
    return record.messages, responses, record.meta, rankings, ids


def _shortened(record: PromptRecord, tally: Tally) -> PromptRecord:
    """Return the record with ids and model names cut to the maximum length of their columns."""
    ids = [record.external_id, *(task.external_id for task in record.tasks)]
    ids += [response.external_id for response in record.responses]
    long_ids = sum(len(text) > MAX_ID_LENGTH for text in ids)
    long_models = sum(len(response.model) > MAX_MODEL_LENGTH for response in record.responses)
    if not long_ids and not long_models:
        return record
    tally.changed[f"ids, cut to their first {MAX_ID_LENGTH} characters"] += long_ids
    tally.changed[f"model names, cut to their first {MAX_MODEL_LENGTH} characters"] += long_models
    return replace(
        record,
        external_id=record.external_id[:MAX_ID_LENGTH],
        tasks=[replace(t, external_id=t.external_id[:MAX_ID_LENGTH]) for t in record.tasks],
        responses=[
            replace(r, external_id=r.external_id[:MAX_ID_LENGTH], model=r.model[:MAX_MODEL_LENGTH])
            for r in record.responses
        ],
    )
