"""The parts that all model cards have: front matter, held-out figures and loading code."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from formatting.numbers import percent, percent_range
from recipes.models.references import split_reference
from recipes.training_settings import CHAT_DATE, CHAT_KWARGS


def front_matter(front: dict[str, Any], base: str) -> str:
    """Return the YAML front matter for model hubs.

    It names the base model, unless the base model is a local folder.
    """
    if not base.startswith(("/", ".")):
        front = {**front, "base_model": split_reference(base)[0]}
    return f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n"


def held_out_table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table with one row per figure, and an empty line at its end."""
    head = ["| | value | 95% interval | prompts | pairs |", "|---|---|---|---|---|"]
    return [*head, *(_row(name, figure) for name, figure in figures.items()), ""]


def loading(code: str, base: str) -> str:
    """Return the code that loads the model, with the name and the revision of its base model."""
    name, revision = split_reference(base)
    pinned = f', revision="{revision}"' if revision else ""
    return code.replace('"{base}"', f'"{name}"{pinned}')


def chats(record: Mapping[str, Any] | None) -> list[str]:
    """Return the lines that describe the text of chats in training, from `chat` of the report."""
    if not record:
        return []
    kwargs = record[CHAT_KWARGS]
    passed = f", with the options `{json.dumps(kwargs, ensure_ascii=False)}`" if kwargs else ""
    return [
        "## Chats\n",
        f"The model was trained on chats as the tokenizer's template writes them{passed}; a template "
        f"that prints the date printed {record[CHAT_DATE]}. `chat.json` records both. Serve the model "
        "with the same text.\n",
    ]


def _row(name: str, figure: Mapping[str, Any]) -> str:
    counts = f"{figure['prompts']} | {figure['pairs']}"
    if figure["value"] is None:
        return f"| {name} | – | {figure['reason']} | {counts} |"
    value, interval = percent(figure["value"]), percent_range(figure["interval"])
    return f"| {name} | {value} | {interval} | {counts} |"
