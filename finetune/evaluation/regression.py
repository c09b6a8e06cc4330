"""Regression sets: new versions from lines of text, and the values of answers to their prompts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from accounts.models import User, audit
from finetune.certificate.conditions import set_digest
from finetune.certificate.contents import hashed_cases
from finetune.models import RegressionItem, RegressionSet
from finetune.statistics import expectations
from labeling.core.chats import chat_problem
from labeling.core.text import storable
from labeling.models import Project, Prompt
from labeling.models import digest as digest_of_prompt

MOST_CASES, MOST_CHARACTERS = 1_000, 2_000_000
KEYS = {"prompt", "messages", "expect"}


class BadSet(ValueError):  # noqa: N818
    """Lines that are not a regression set. The text says in which line, and why."""


@transaction.atomic
def create(*, project: Project, text: str, margin: float, by: User | None) -> RegressionSet:
    """Store a new version of the project's set. Raises BadSet.

    Each line of `text` is a JSON object with `prompt`, which is the number of a prompt of the project
    or a text, or `messages`, which is a chat. `expect` has the properties that an answer must have.
    Prompts that the project does not have yet are added to it, without a task.
    """
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    chosen = _parsed(text, project)
    prompts = _prompts_of(project, [messages for messages, _ in chosen])
    cases = [
        {"prompt": prompt.pk, "prompt_sha256": prompt.content_hash, "expect": expect}
        for prompt, (_, expect) in zip(prompts, chosen, strict=True)
    ]
    newest, sha256 = RegressionSet.newest(project.pk), set_digest(hashed_cases(cases), margin)
    if newest and newest.sha256 == sha256:
        raise BadSet(f"Version {newest.number} has the same prompts, properties and margin.")
    created = RegressionSet.objects.create(
        project=project,
        number=newest.number + 1 if newest else 1,
        cases=cases,
        margin=margin,
        sha256=sha256,
        created_by=by,
    )
    audit(by, "regression set created", project, number=created.number, sha256=sha256)
    return created


Case = tuple[list[dict[str, str]], dict[str, Any]]
"""The messages of a prompt, and the properties that an answer must have."""


def _parsed(text: str, project: Project) -> list[Case]:
    if len(text) > MOST_CHARACTERS:
        raise BadSet(f"The text has more than {MOST_CHARACTERS:,} characters.")
    cases: list[Case] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            messages, expect = _case(line, project)
        except BadSet as problem:
            raise BadSet(f"Line {number}: {problem}") from None
        key = digest_of_prompt(messages)
        if key in lines:
            raise BadSet(f"Line {number}: the prompt is the same as in line {lines[key]}.")
        lines[key] = number
        cases.append((messages, expect))
        if len(cases) > MOST_CASES:
            raise BadSet(f"A regression set has at most {MOST_CASES:,} prompts.")
    if not cases:
        raise BadSet("A regression set needs at least one prompt.")
    return cases


def _case(line: str, project: Project) -> Case:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise BadSet("not valid JSON.") from None
    if not isinstance(values, dict):
        raise BadSet('a line must be an object such as {"prompt": "…"}.')
    if unknown := sorted(set(values) - KEYS):
        raise BadSet(f'"{unknown[0]}" is not a key. Use prompt or messages, and expect.')
    if ("prompt" in values) == ("messages" in values):
        raise BadSet('it needs either "prompt" or "messages".')
    expect = values.get("expect", {})
    if problem := expectations.problem_of(expect):
        raise BadSet(problem)
    for name in expectations.TEXTS:
        if name in expect:
            expect[name] = [storable(part) for part in expect[name]]
    return _messages(values, project), expect


def _messages(values: dict[str, Any], project: Project) -> list[dict[str, str]]:
    prompt = values.get("prompt")
    if type(prompt) is int:
        prompts = Prompt.objects.filter(project=project)
        row = prompts.filter(pk=prompt).first() if 0 < prompt < 2**63 else None
        if row is None:
            raise BadSet(f"{project} has no prompt {prompt}.")
        messages: list[dict[str, str]] = row.messages
        return messages
    if "prompt" in values:
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadSet('"prompt" must be the number of a prompt, or a text.')
        return [{"role": "user", "content": storable(prompt)}]
    if problem := chat_problem(values["messages"]):
        raise BadSet(problem)
    return [
        {name: storable(text) for name, text in message.items()} for message in values["messages"]
    ]


def _prompts_of(project: Project, chats: Sequence[list[dict[str, str]]]) -> list[Prompt]:
    """Return the prompts with these messages, which are created unless they exist. Raises BadSet."""
    hashes = [digest_of_prompt(messages) for messages in chats]
    existing = Prompt.objects.filter(project=project, content_hash__in=hashes)
    by_hash = {prompt.content_hash: prompt for prompt in existing}
    for sha256, messages in zip(hashes, chats, strict=True):
        if sha256 not in by_hash:
            by_hash[sha256] = Prompt.objects.create(
                project=project, messages=messages, meta={"from": "regression set"}
            )
        if by_hash[sha256].withdrawn_at:
            raise BadSet(f"Prompt {by_hash[sha256].pk} was withdrawn from the project.")
    return [by_hash[sha256] for sha256 in hashes]


def as_lines(regression_set: RegressionSet) -> str:
    """Return the cases in the form that `create` reads, with the numbers of the prompts."""
    return "\n".join(
        json.dumps(
            {"prompt": case["prompt"], **({"expect": case["expect"]} if case["expect"] else {})},
            ensure_ascii=False,
        )
        for case in regression_set.cases
    )


def items_of(
    regression_set: RegressionSet,
    rows: Sequence[Mapping[str, Any]],
    verdicts: Mapping[tuple[int, int], float | None],
) -> list[RegressionItem]:
    """Return the items of the answers to the set's prompts, which are not saved yet.

    `rows` have both answers to a prompt, and `verdicts` those of the judge by prompt and sample.
    """
    items = []
    for row in rows:
        prompt, sample = int(row["prompt_id"]), row["sample"]
        expect = regression_set.expectations()[prompt]
        passed = {
            side: expectations.is_met(expect, row[side]) if expect else None
            for side in ("candidate", "baseline")
        }
        verdict = verdicts.get((prompt, sample))
        if passed["candidate"] is not None and passed["baseline"] is not None:
            verdict = expectations.value_of(passed["candidate"], passed["baseline"])
        items.append(
            RegressionItem(
                prompt_id=prompt,
                sample=sample,
                baseline_text=storable(row["baseline"]),
                candidate_text=storable(row["candidate"]),
                baseline_passed=passed["baseline"],
                candidate_passed=passed["candidate"],
                verdict=verdict,
            )
        )
    return items
