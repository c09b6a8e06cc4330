"""Records exported from Argilla 1 and 2, as JSON records or as columns of a data set.

    {"id", "fields": {"prompt": …, "reply-1": …, "reply-2": …},
     "responses": {"ranking": [{"value": [{"value": "reply-2", "rank": 1}, …], "user_id": …}]}}

Argilla 1 writes "responses" as [{"user_id", "status", "values": {"ranking": {"value": …}}}]. Data sets
from Argilla 1 have a column of [{"user_id", "value", "status"}] for each question. Data sets from
Argilla 2 have the columns "ranking.responses", "ranking.responses.users" and
"ranking.responses.status". Records from Argilla's old text classification have "inputs" and an
"annotation".

Each user's answer to a RankingQuestion is a ranking; equal ranks are a tie. If there is none, a user's
answers to RatingQuestions, one for each response, are a ranking; equal ratings are a tie. With two
responses, an answer to a LabelQuestion that names one of them is a ranking too. Reviewers are named
"argilla-" and the user's id. Discarded answers, drafts and models' suggestions are left out.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from labeling.importing.files.source import each_row
from labeling.importing.formats.argilla_records import Record, record_of, shape_of
from labeling.importing.formats.columns import values
from labeling.importing.formats.columns.answers import TIES
from labeling.importing.formats.conversations import Draft, account, in_tiers, number
from labeling.importing.records import BadInput, PromptRecord, Tally

PROMPT = (
    "prompt",
    "instruction",
    "question",
    "query",
    "input",
    "context",
    "chat",
    "messages",
    "text",
)
ANSWER = re.compile(r"response|reply|generation|completion|answer|output|candidate", re.IGNORECASE)
REASON = re.compile(r"comment|rationale|reason|explanation|feedback|why", re.IGNORECASE)
UNREAD = "users' answers that rank or rate no responses"
FURTHER = "users' answers to other questions than the one read as their ranking"


def recognises(first: Any) -> bool:
    return isinstance(first, dict) and bool(shape_of(first))


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    yield from each_row(path, tally, lambda line, row: _records(line, row, tally))


def _records(line: int, row: dict[str, Any], tally: Tally) -> Iterator[PromptRecord]:
    yield from _draft(record_of(row, line, tally), line, tally).records(tally)


def _draft(record: Record, line: int, tally: Tally) -> Draft:
    fields = record.fields
    name = next((name for name in PROMPT if values.has_content(fields.get(name))), None)
    named = _responses(fields, name)
    meaning = {name or "": "prompt", **dict.fromkeys(named, "response")}
    metadata = account(fields, meaning, tally, prefix=record.prefix)
    if name is None:
        raise BadInput(f"no field is the prompt. Name one of the fields {', '.join(PROMPT)}.", line)
    draft = Draft(
        line,
        values.messages(values.chat_or_text(fields, name), line, record.prefix + name, tally),
        external_id=record.external_id,
        meta={**record.metadata, **metadata},
    )
    indexes = {
        key: draft.add(
            values.reply(values.chat_or_text(fields, key), line, record.prefix + key, tally),
            str(record.metadata.get(f"{key}_model") or ""),
        )
        for key in named
    }
    for user, answers in record.answers.items():
        tally.read["users' answers"] += 1
        tiers, used = _tiers(answers, indexes, line)
        if not tiers:
            tally.left_out[UNREAD] += 1
            continue
        reasons = {q: a for q, a in answers.items() if q not in used and _is_reason(q, a)}
        tally.left_out[FURTHER] += len(answers.keys() - used - reasons.keys())
        draft.judge(user, tiers, tally, rationale="\n\n".join(reasons.values()))
    return draft


def _responses(fields: dict[str, Any], prompt: str | None) -> list[str]:
    """Return the names of the response fields: those named like responses, otherwise all texts."""
    texts = [k for k, v in fields.items() if k != prompt and v and isinstance(v, str | list)]
    answers = [k for k, v in fields.items() if k != prompt and v != "" and ANSWER.search(k)]
    readable = [k for k in answers if k in texts or values.as_text(fields[k]) is not None]
    return readable or texts


def _is_reason(question: str, answer: Any) -> bool:
    return isinstance(answer, str) and bool(REASON.search(question))


def _tiers(
    answers: dict[str, Any], indexes: dict[str, int], line: int
) -> tuple[list[list[int]] | None, set[str]]:
    """Return the tiers that a user's answers give, or None, and the questions that were used."""
    for question, value in answers.items():
        value = _listed(value)
        if isinstance(value, list) and len(value) > 1 and (tiers := _ranked(value, indexes, line)):
            return tiers, {question}
    scores = {
        question: (index, score)
        for question, value in answers.items()
        if (score := number(value)) is not None and (index := _index(question, indexes)) is not None
    }
    if len(scores) > 1:
        return in_tiers(dict(scores.values())), set(scores)
    for question, value in answers.items():
        label = value[0] if isinstance(value, list) and len(value) == 1 else value
        if (
            isinstance(label, str)
            and not REASON.search(question)
            and len(set(indexes.values())) == 2
        ):
            if label.strip().lower() in TIES:
                return [list(indexes.values())], {question}
            if (best := _index_of_label(label, indexes)) is not None:
                return [[best], [index for index in indexes.values() if index != best]], {question}
    return None, set()


def _listed(value: Any) -> Any:
    """Return a ranking as a list of objects. Some data sets store it as an object of lists."""
    value = values.parsed(value) or value if isinstance(value, str) else value
    if isinstance(value, dict) and {"value", "rank"} <= value.keys():
        names, ranks = value["value"], value["rank"]
        if isinstance(names, list) and isinstance(ranks, list) and len(names) == len(ranks):
            return [{"value": n, "rank": r} for n, r in zip(names, ranks, strict=True)]
    return value


def _ranked(value: list[Any], indexes: dict[str, int], line: int) -> list[list[int]] | None:
    """Return tiers from [{"value", "rank"}, …], or from a list of names in order."""
    if all(isinstance(item, str) for item in value):
        if all(_index(name, indexes) is None for name in value):
            return None  # the labels do not name responses
        value = [{"value": name, "rank": count} for count, name in enumerate(value)]
    ranked = []
    for item in value:
        if not isinstance(item, dict) or "value" not in item or "rank" not in item:
            return None
        if (index := _index(str(item["value"]), indexes)) is None:
            raise BadInput(f"the ranking names {item['value']!r}, which is not a field.", line)
        if (rank := number(item["rank"])) is not None:
            ranked.append((rank, index))
    ranked.sort(key=lambda pair: pair[0])
    return [[index for _, index in tied] for _, tied in groupby(ranked, key=lambda pair: pair[0])]


def _index_of_label(label: str, indexes: dict[str, int]) -> int | None:
    """Return the index of the only field whose name or number matches a label, or None."""
    bare_label = _bare(label)
    exact = [index for key, index in indexes.items() if _bare(key) == bare_label]
    within = [index for key, index in indexes.items() if _bare(key) in bare_label]
    counted = [p for key, p in indexes.items() if re.findall(r"\d+", key)[-1:] == [bare_label]]
    return next((matches[0] for matches in (exact, within, counted) if len(matches) == 1), None)


def _index(name: str, indexes: dict[str, int]) -> int | None:
    """Return the index of the field whose name is contained in `name`, ignoring spelling, or None."""
    if name in indexes:
        return indexes[name]
    bare_name = _bare(name)
    exact = [index for key, index in indexes.items() if _bare(key) == bare_name]
    within = [index for key, index in indexes.items() if _bare(key) in bare_name]
    digits = re.findall(r"\d+", name)
    counted = [
        index
        for key, index in indexes.items()
        if digits and re.findall(r"\d+", key)[-1:] == digits[-1:]
    ]
    return next((matches[0] for matches in (exact, within, counted) if len(matches) == 1), None)


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
