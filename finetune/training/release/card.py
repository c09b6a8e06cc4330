"""The model card of a pushed model: the card of its run, with what has happened since.

The front matter follows the rules of the hub (https://huggingface.co/docs/hub/model-cards).
"""

import re
from typing import Any

import yaml

from finetune.settings import PushConfig
from formatting.numbers import percent, percent_range
from recipes.hub_names import MAIN, hub_name

FRONT = re.compile(r"---\n(.*?)---\n", re.DOTALL)
FOLDER = '"PATH_OF_THIS_FOLDER"'


def release_card(
    card: str, facts: dict[str, Any], config: PushConfig, local: dict[str, str]
) -> str:
    """Return the card. `local` are the paths in the run's card, and the names that replace them."""
    match = FRONT.match(card)
    front = yaml.safe_load(match[1]) if match else {}
    body = card[match.end() :] if match else card or "# Model\n"
    name = hub_name(config.repo)
    pinned = "" if name.revision == MAIN else f', revision="{name.revision}"'
    body = body.replace(FOLDER, f'"{name.repo}"{pinned}')
    for path in sorted(local, key=len, reverse=True):
        body = body.replace(path, local[path])
    front = {**(front or {}), **release_front(facts, config)}
    text = yaml.safe_dump(front, sort_keys=True, allow_unicode=True, width=1000)
    sections = [*data_section(facts), *evaluation_section(facts), *certificate_section(facts)]
    return f"---\n{text}---\n{body.rstrip()}\n\n" + "\n".join(sections) + "\n"


def release_front(facts: dict[str, Any], config: PushConfig) -> dict[str, Any]:
    adapter = facts["kind"] == "adapter"
    front: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "license": config.license,
        "tags": sorted({*facts["tags"], "tiebreak", *(["lora"] if adapter else ["merged"])}),
    }
    if facts["base"]:
        front["base_model"] = facts["base"]["name"]
        front["base_model_relation"] = "adapter" if adapter else "finetune"
    datasets = [config.dataset] if config.dataset else [row["name"] for row in facts["snapshots"]]
    if datasets:
        front["datasets"] = datasets
    record = {
        "snapshots": [row["sha256"] for row in facts["snapshots"]],
        "guideline_versions": facts["guidelines"],
        "reviewer_agreement": (facts["agreement"] or {}).get("value"),
        "certificate": (facts["certificate"] or {}).get("sha256"),
    }
    return {**front, "tiebreak": {key: value for key, value in record.items() if value}}


def data_section(facts: dict[str, Any]) -> list[str]:
    lines = ["## Training data\n"]
    for row in facts["snapshots"]:
        simulated = f", {row['simulated']:,} of them simulated" if row["simulated"] else ""
        lines.append(
            f"- Snapshot `{row['sha256']}`: {row['rankings']:,} rankings{simulated} of "
            f"{row['prompts']:,} prompts by {row['reviewers']:,} reviewers, used by {row['model']}."
        )
    if not facts["snapshots"]:
        lines.append("- This installation has no record of the training data.")
    if facts["guidelines"]:
        lines.append(f"- Guideline: {', '.join(facts['guidelines'])}.")
    agreement = facts["agreement"]
    if agreement and agreement.get("value") is not None:
        lines.append(
            f"- Pairwise agreement of reviewers: {percent(agreement['value'])} (95% interval "
            f"{percent_range(agreement['interval'])}, {agreement['pairs']:,} pairs of held-out prompts)."
        )
    return [*lines, ""]


def evaluation_section(facts: dict[str, Any]) -> list[str]:
    lines = ["## Evaluation\n"]
    for row in facts["evaluations"]:
        lines.append(
            f"- Against {row['baseline']}: {row['conclusion']}. Win rate by {row['judge']}: "
            f"{row['win_rate']} (95% interval {row['interval']})."
        )
    if not facts["evaluations"]:
        lines.append("The model has not been evaluated.")
    return [*lines, ""]


def certificate_section(facts: dict[str, Any]) -> list[str]:
    certificate = facts["certificate"]
    if not certificate:
        return ["## Certificate\n", "The model has not been promoted, so it has no certificate.\n"]
    reason = f" Reason: {certificate['reason']}" if certificate["reason"] else ""
    doubts = (
        f" The project's policy was not met, and the promotion was an override.{reason}"
        if certificate["doubts"]
        else ""
    )
    return [
        "## Certificate\n",
        f"The model was promoted on {certificate['date']}, with certificate {certificate['number']} of "
        f"{certificate['project']}, which is the file `certificate.json`.{doubts}\n",
        f"- SHA-256 of the certificate: `{certificate['sha256']}`",
        f"- Public key (Ed25519): `{certificate['public_key']}`",
        "- To recompute its conclusion: `python -m finetune.certificate certificate.json` with the "
        "source code of Tiebreak.\n",
    ]
