"""Open Assistant conversation trees: one JSON tree per line, as published by the project.

Each prompter message, with its history, is a prompt. Two or more replies with a `rank` (0 is best) are
a task with one ranking by the reviewer "oasst", because the published rank already combines several
people's opinions. Equal ranks are a tie. A reply without a rank was not judged. It becomes a response
to the prompt but not part of the task, so that the ranking covers every response in its task. If more
than nine replies are ranked, the task has nine of them, evenly spaced from best to worst. Deleted
messages, and all replies below them, are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from labeling.importing.files.source import each_row
from labeling.importing.formats.columns import values
from labeling.importing.records import (
    NESTED,
    BadInput,
    PromptRecord,
    RankingRecord,
    ResponseRecord,
    Tally,
    TaskRecord,
)

REVIEWER = "oasst"
MAX_RESPONSES = 9
ROLES = {"prompter": "user", "assistant": "assistant"}
DEEPEST = 200

MEANING = {
    "message_id": "id", "text": "prompt or response", "role": "prompt or response",
    "replies": NESTED, "rank": "rank", "lang": "metadata", "deleted": "status", "model_name": "model",
    "synthetic": "model",
}  # fmt: skip
"""The meaning of a message's keys, which are counted as `message.KEY` at every depth."""


def recognises(first: Any) -> bool:
    if not isinstance(first, dict):
        return False
    prompt = values.structure(first, "prompt")
    return isinstance(prompt, dict) and ("message_tree_id" in first or "replies" in prompt)


def read(path: Path, tally: Tally) -> Iterator[PromptRecord]:
    yield from each_row(path, tally, lambda line, tree: _records(line, tree, tally))


def _records(line: int, tree: dict[str, Any], tally: Tally) -> Iterator[PromptRecord]:
    tree = {**tree, "prompt": values.structure(tree, "prompt")}
    if not isinstance(tree["prompt"], dict):
        raise BadInput('a tree must be an object with a "prompt".', line)
    tally.read["trees"] += 1
    _account(tree, tally)
    yield from _prompts(Node(tree["prompt"], line, []), tally)


def _account(tree: dict[str, Any], tally: Tally) -> None:
    """Count the keys of a tree and of all its messages, including messages that are left out."""
    tally.columns.add(tree, {"prompt": NESTED})
    waiting = [tree["prompt"]]
    while waiting:
        message = waiting.pop()
        if not isinstance(message, dict):
            continue
        replies = message.get("replies")
        waiting += reversed(replies) if isinstance(replies, list) else []
        tally.columns.add(message, MEANING, prefix="message.")


@dataclass(frozen=True)
class Node:
    message: dict[str, Any]
    line: int
    history: list[dict[str, str]]

    @property
    def id(self) -> str:
        return str(self.message.get("message_id", ""))

    @property
    def text(self) -> str:
        return values.as_text(self.message.get("text")) or ""

    def checked(self) -> "Node":
        message = self.message
        if not isinstance(message, dict) or values.as_text(message.get("text")) is None:
            raise BadInput('a message must be an object with a "text".', self.line)
        if not isinstance(message.get("role"), str) or message["role"] not in ROLES:
            raise BadInput(
                f"message {self.id} has a role other than prompter and assistant.", self.line
            )
        rank = message.get("rank")
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
            raise BadInput(f"message {self.id} has a rank that is not a whole number.", self.line)
        if not isinstance(message.get("replies") or [], list):
            raise BadInput(f"message {self.id} has replies that are not a list.", self.line)
        if len(self.history) > DEEPEST:
            raise BadInput(f"the conversation is deeper than {DEEPEST} messages.", self.line)
        return self

    def chat(self) -> list[dict[str, str]]:
        message = {"role": ROLES[self.message["role"]], "content": self.text}
        return [*self.history, message]

    def replies(self, tally: Tally) -> list["Node"]:
        below = [
            Node(reply, self.line, self.chat()).checked()
            for reply in self.message.get("replies") or []
        ]
        remaining = [node for node in below if not node.message.get("deleted")]
        tally.left_out["deleted messages, with the replies below them"] += len(below) - len(
            remaining
        )
        empty = [n for n in remaining if n.message["role"] == "assistant" and not n.text.strip()]
        tally.left_out["empty replies, with the replies below them"] += len(empty)
        return [node for node in remaining if all(node is not other for other in empty)]


def _prompts(root: Node, tally: Tally) -> Iterator[PromptRecord]:
    waiting = [root.checked()]
    while waiting:
        node = waiting.pop()
        replies = node.replies(tally)
        waiting += reversed(replies)
        tally.read["messages"] += 1
        if node.message["role"] == "prompter":
            tally.read["prompter messages"] += 1
            if record := _prompt(node, replies, tally):
                yield record


def _prompt(node: Node, replies: list[Node], tally: Tally) -> PromptRecord | None:
    ranked = sorted(
        (reply for reply in replies if reply.message.get("rank") is not None),
        key=lambda reply: reply.message["rank"],
    )
    if len(ranked) < 2:
        tally.left_out[_why_not(len(replies), len(ranked))] += 1
        return None
    tally.read["ranked replies"] += len(ranked)
    task = _evenly(ranked)
    aside = [reply for reply in replies if all(reply is not other for other in task)]
    unranked = sum(reply.message.get("rank") is None for reply in aside)
    tally.left_out["replies without a rank at a ranked place (kept as responses)"] += unranked
    more = len(aside) - unranked
    tally.left_out[f"ranked replies beyond {MAX_RESPONSES} (kept as responses)"] += more
    return PromptRecord(
        line=node.line,
        messages=node.chat(),
        responses=[_response(reply) for reply in task + aside],
        tasks=[
            TaskRecord(node.line, list(range(len(task))), [RankingRecord(REVIEWER, _tiers(task))])
        ],
        external_id=node.id,
        meta={"lang": node.message["lang"]} if node.message.get("lang") else {},
    )


def _why_not(replies: int, ranked: int) -> str:
    if not replies:
        return "prompter messages without a reply"
    if replies == 1:
        return "prompter messages with a single reply"
    return f"prompter messages with several replies but {'one rank' if ranked else 'no rank'}"


def _evenly(ranked: list[Node]) -> list[Node]:
    if len(ranked) <= MAX_RESPONSES:
        return ranked
    step = (len(ranked) - 1) / (MAX_RESPONSES - 1)
    return [ranked[round(index * step)] for index in range(MAX_RESPONSES)]


def _tiers(ranked: list[Node]) -> list[list[int]]:
    tied_indexes = groupby(range(len(ranked)), key=lambda index: ranked[index].message["rank"])
    return [list(tied) for _, tied in tied_indexes]


def _response(reply: Node) -> ResponseRecord:
    message = reply.message
    writer = message.get("model_name") if message.get("synthetic") else None
    return ResponseRecord(reply.text, str(writer or "human"), reply.id)
