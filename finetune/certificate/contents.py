"""The content of a certificate, read from the rows of a promotion.

The content names no person: reviewers have the pseudonyms of the project, and the account that promoted
the model is a number. It contains no prompt and no answer, only their hashes and verdicts.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from buckets.files import entries_below
from finetune.certificate import conditions, recomputing
from finetune.certificate.document import digest as digest_of_json
from finetune.certificate.verdicts import SOURCES
from labeling.models import GuidelineVersion, Project, Prompt, digest
from reward.preferences.pseudonyms import pseudonyms
from runs import storage

HASHED_BYTES = 1 << 30
"""The files of a base are hashed if they have at most this many bytes, which takes about a second."""
NOT_REGISTERED = frozenset({"report", "stopped_at"})
"""Columns of an evaluation that are not part of its registration."""


def contents_of(
    model: Any,
    *,
    number: int,
    previous: dict[str, Any] | None,
    promotion: dict[str, Any],
    replaced: Any,
    evaluations: Sequence[Any],
    counting: frozenset[int],
) -> dict[str, Any]:
    """Return the content of the certificate of a model that is being promoted.

    `evaluations` are all evaluations of the model with verdicts; those with an id in `counting` decided.
    """
    project: Project = model.project
    recorded = [
        _evaluation(evaluation, counts=evaluation.pk in counting) for evaluation in evaluations
    ]
    ids = {pk for evaluation in evaluations for pk in evaluation.prompts}
    ids |= {row["prompt"] for each in recorded for row in _verdicts(each)}
    ids |= {
        case["prompt"] for e in recorded for case in (e["regression"] or {"cases": []})["cases"]
    }
    hashes = dict(Prompt.objects.filter(pk__in=ids).values_list("pk", "content_hash"))
    versions = _versions({row["guideline"] for each in recorded for row in _verdicts(each)})
    for each in recorded:
        for row in each["people"]["verdicts"]:
            row["guideline"] = versions.get(row["guideline"], {}).get("number")
    content = {
        "certificate": {
            "number": number,
            "previous": previous,
            "issued_at": timezone.now(),
        },
        "project": {
            "slug": project.slug,
            "name": project.name,
            "simulated": project.simulated,
        },
        "candidate": _model(model),
        "promotion": {**promotion, "replaced": _name(replaced)},
        "guideline": {
            "current": _version(project.current_version),
            "versions": list(versions.values()),
        },
        "prompts": {str(pk): hashes.get(pk) for pk in sorted(ids)},
        "evaluations": recorded,
    }
    plain: dict[str, Any] = json.loads(json.dumps(content, cls=DjangoJSONEncoder))
    return plain


def _verdicts(evaluation: dict[str, Any]) -> Iterable[dict[str, Any]]:
    yield from evaluation["people"]["verdicts"]
    yield from ({**row, "guideline": None} for row in evaluation["judge"]["verdicts"])


def _evaluation(evaluation: Any, *, counts: bool) -> dict[str, Any]:
    pseudonym, verdicts = pseudonyms(evaluation.project), evaluation.blind_verdicts()
    counted = evaluation.counted(verdicts)
    registration = {
        field.attname: getattr(evaluation, field.attname)
        for field in evaluation._meta.concrete_fields
        if field.name not in NOT_REGISTERED
    }
    return {
        "evaluation": evaluation.pk,
        "candidate": _name(evaluation.candidate),
        "baseline": _name(evaluation.baseline),
        "counts": counts,
        "registration": registration,
        "people": {
            "verdicts": [
                {
                    "prompt": verdict.prompt,
                    "reviewer": pseudonym(verdict.reviewer),
                    "verdict": verdict.value,
                    "simulated": verdict.simulated,
                    "guideline": verdict.guideline_version,
                    "at": verdict.created_at,
                }
                for verdict in verdicts
            ],
            "evidence": recomputing.as_json(evaluation.evidence_from(counted)),
            "general": _general(evaluation, counted),
        },
        "judge": {
            "verdicts": [
                {
                    "prompt": item.prompt_id,
                    "sample": item.sample,
                    "verdict": item.verdict,
                    "baseline_score": item.baseline_score,
                    "candidate_score": item.candidate_score,
                    "block": item.block,
                    "asked": item.task_id is not None,
                    "withdrawn": item.task is not None and item.task.inactive,
                }
                for item in evaluation.items.exclude(verdict=None, block=None)
                .select_related("task")
                .order_by("id")
            ],
            "evidence": recomputing.as_json(evaluation.judged()),
        },
        "lengths": [
            [prompt, sample, candidate, baseline]
            for prompt, sample, _, candidate, baseline in evaluation.items_with_lengths()
        ],
        "at_equal_length": {
            source: conditions.length_as_json(controlled)
            for source, controlled in zip(SOURCES, evaluation.at_equal_length(counted), strict=True)
        },
        "regression": _regression(evaluation),
        "report": evaluation.report,
    }


def _regression(evaluation: Any) -> dict[str, Any] | None:
    """Return the regression set with the verdicts on its prompts, or None without one."""
    used, result = evaluation.regression_set, evaluation.regression()
    if used is None or result is None:
        return None
    names = ("prompt_id", "sample", "verdict", "candidate_passed", "baseline_passed")
    return {
        "number": used.number,
        "sha256": used.sha256,
        "margin": used.margin,
        "cases": hashed_cases(used.cases),
        "verdicts": [
            {"prompt" if name == "prompt_id" else name: row[name] for name in names}
            for row in evaluation.regression_items.order_by("id").values(*names)
        ],
        "result": conditions.regression_as_json(result),
    }


def hashed_cases(cases: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cases of a regression set with the hash of the properties, None without any."""
    return [
        {
            "prompt": case["prompt"],
            "prompt_sha256": case["prompt_sha256"],
            "expect_sha256": digest_of_json(case["expect"]) if case["expect"] else None,
        }
        for case in cases
    ]


def _general(evaluation: Any, counted: list[Any]) -> dict[str, Any] | None:
    """Return the win rate over reviewers in general, if the evaluation is about them."""
    if evaluation.question != recomputing.LIKE_THEM:
        return None
    return recomputing.as_dict(evaluation.general_rate(counted))


# --- models --------------------------------------------------------------------------------------


def _name(model: Any) -> dict[str, Any] | None:
    return None if model is None else {"model": model.pk, "name": model.name, "kind": model.kind}


def _model(model: Any) -> dict[str, Any]:
    """Return the model with the hashes of its files, and the models that it was made from."""
    steps = list(model.ancestry())
    root = steps[-1]
    return {
        **_step(model),
        "made_from": [_step(step) for step in steps[1:]],
        "root": root.base,
        "root_files": _files_of_base(root.base),
    }


def _step(model: Any) -> dict[str, Any]:
    files = model.run.artifacts.order_by("name") if model.run else ()
    snapshot = model.snapshot
    return {
        **(_name(model) or {}),
        "base": model.base,
        "run": model.run_id,
        "method": model.run.kind if model.run else None,
        "config": model.run.config if model.run else None,
        "files": [{"name": f.name, "bytes": f.bytes, "sha256": f.sha256} for f in files],
        "snapshot": snapshot
        and {
            "snapshot": snapshot.pk,
            "sha256": snapshot.content_hash,
            "filter": snapshot.filter,
            "counts": snapshot.counts,
        },
    }


def _stored_files_of_base(folder: Path) -> list[dict[str, Any]] | None:
    """Return the files of a folder that is only in the object store, or None if it is not there."""
    entries = entries_below(folder).items()
    return [{"name": n, "bytes": e.bytes, "sha256": e.sha256} for n, e in entries] or None


def _files_of_base(base: str) -> list[dict[str, Any]] | None:
    """Return the files of the folder of a base, or None for a model of a hub.

    Larger folders than HASHED_BYTES have only sizes, because a page waits for this.
    """
    folder = Path(storage.resolve(base))
    if not storage.is_folder(base):
        return None
    if not folder.is_dir():
        return _stored_files_of_base(folder)
    files = [(file, file.stat().st_size) for file in storage.files_of(folder)]
    hashed = sum(size for _, size in files) <= HASHED_BYTES
    return [
        {
            "name": str(file.relative_to(folder)),
            "bytes": size,
            "sha256": storage.digest_of(file, [file]) if hashed else None,
        }
        for file, size in files
    ]


# --- guideline -----------------------------------------------------------------------------------


def _version(version: GuidelineVersion | None) -> dict[str, Any] | None:
    """Return a version of the guideline, with the SHA-256 of its text and criteria."""
    if version is None:
        return None
    criteria = list(version.criteria.values_list("name", "meaning", "scale"))
    text = {"text": version.text, "criteria": [list(row) for row in criteria]}
    return {
        "number": version.number,
        "sha256": digest(text),
        "published_at": version.published_at,
    }


def _versions(ids: set[int | None]) -> dict[int | None, dict[str, Any]]:
    """Return the versions with these ids, by id."""
    numbers = [pk for pk in ids if pk is not None]
    versions = GuidelineVersion.objects.filter(pk__in=numbers).order_by("number")
    return {version.pk: _version(version) or {} for version in versions}
