"""Tokens of groups, with the same prompt tokens for all responses of a group.

The text is the tokenizer's chat template, or a plain form if it has none. Prompt and response are
tokenized together, as other tools do, and split where the response begins. If a token spans that
boundary, they are tokenized separately.

Legend: P tokens of the prompt, R_k tokens of response k, K responses.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jinja2 import TemplateError

from recipes.errors import RecipeError
from recipes.models.chat_template import TemplateTooCostly, time_limit
from recipes.preferences.evidence import (
    Evidence,
    Signals,
    plain_evidence,
    relative_to,
    unweighted,
)
from recipes.preferences.groups import Group, PreferenceError, keep_responses, read_folder, wins
from recipes.report import LeftOut
from recipes.rundir import RunDir

PLAIN_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
SENTINELS = ("\u2022first", "\u25e6second")


@dataclass(frozen=True)
class TokenGroup:
    """One prompt, its K responses and the evidence about them, as numbers."""

    prompt: np.ndarray  # (P,) int32
    responses: list[np.ndarray]  # K arrays (R_k,) int32
    wins: np.ndarray  # (K, K) float32
    signals: Signals = field(default_factory=dict)  # see evidence.py

    def longest(self) -> int:
        """Return the length of the prompt with its longest response, in tokens."""
        return len(self.prompt) + max(len(response) for response in self.responses)

    def size(self) -> int:
        """Return the number of tokens with a shared prompt, P + ΣR."""
        return len(self.prompt) + sum(len(response) for response in self.responses)

    def lengths(self) -> np.ndarray:
        """Return the lengths of the responses in tokens, (K,) float64."""
        return np.array([len(response) for response in self.responses], dtype=float)


class ChatFormat:
    """The text form of conversations for a tokenizer.

    Has no state that changes, and is safe to share.

    Plain text ends with `end_ids` if the tokenizer appends them, otherwise with the text `ending`.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.name = "chat template" if tokenizer.chat_template else "plain text"
        self.ending, self.end_ids = "", []
        if not tokenizer.chat_template:
            ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
            self.end_ids = [i for i in tokenizer("a")["input_ids"][-1:] if i in ends]
            end_token = tokenizer.eos_token or tokenizer.sep_token or ""
            self.ending = "" if self.end_ids else end_token

    def split(
        self, prompt: list[dict[str, str]], responses: Sequence[str]
    ) -> tuple[str, list[str]]:
        """Return the text that all responses share, and the text of each response after it.

        Raises ValueError if the template refuses the conversation or changes the prompt depending
        on the response.
        """
        if not self.tokenizer.chat_template:
            # Most vocabularies join a space to the next word, so the space belongs to the response.
            return plain_prompt(prompt), [f" {response}{self.ending}" for response in responses]
        texts = [self._render(prompt, response) for response in responses]
        shared = self._shared_text(prompt)
        if not all(text.startswith(shared) for text in texts):
            raise ValueError("the chat template rewrites the prompt according to the response")
        return shared, [text[len(shared) :] for text in texts]

    def encode(
        self, prompt: list[dict[str, str]], responses: Sequence[str]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the token ids of the prompt, (P,), and of each response, (R_k,), all int32."""
        shared, tails = self.split(prompt, responses)
        start = self._without_end(self._ids([shared])[0])
        wholes = self._ids([shared + tail for tail in tails])
        # Responses can share a prompt only if its tokens are the same in every text. They differ
        # where a token spans the boundary between prompt and response.
        ends = [
            whole[len(start) :] if whole[: len(start)] == start else self._separately(tail)
            for whole, tail in zip(wholes, tails, strict=True)
        ]
        return (
            np.asarray(start, dtype=np.int32),
            [np.asarray(self._without_padding(ids), dtype=np.int32) for ids in ends],
        )

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids.

        Chat templates write special tokens themselves; plain text needs the tokenizer's.
        """
        return self.tokenizer(texts, add_special_tokens=not self.tokenizer.chat_template)[
            "input_ids"
        ]

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if self.end_ids and ids[-1:] == self.end_ids else ids

    def _separately(self, tail: str) -> list[int]:
        return [*self.tokenizer(tail, add_special_tokens=False)["input_ids"], *self.end_ids]

    def _without_padding(self, ids: list[int]) -> list[int]:
        """Return the ids without padding at the end.

        An end token is padding if the tokenizer has no other.

        Classifiers read the last token that is not padding, so other tools would not see an end
        token either.
        """
        end = len(ids)
        while end and ids[end - 1] == self.tokenizer.pad_token_id:
            end -= 1
        return ids[:end]

    def _shared_text(self, prompt: list[dict[str, str]]) -> str:
        """Return the text that the template writes before any response.

        Templates put the generation prompt in different places, so this compares two renderings.
        """
        probes = [self._render(prompt, sentinel) for sentinel in SENTINELS]
        opening = self._apply(prompt, add_generation_prompt=True)
        if all(probe.startswith(opening) for probe in probes):
            return opening
        same = (n for n, (a, b) in enumerate(zip(*probes, strict=False)) if a != b)
        return probes[0][: next(same, 0)]

    def _render(self, prompt: list[dict[str, str]], response: str) -> str:
        return self._apply([*prompt, {"role": "assistant", "content": response}])

    def _apply(self, messages: list[dict[str, str]], **options: Any) -> str:
        try:
            with time_limit():
                return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from None
        except TemplateTooCostly as error:
            raise RecipeError(f"The model's chat template {error}. Choose another model.") from None


def plain_prompt(prompt: list[dict[str, str]]) -> str:
    turns = [f"{PLAIN_ROLES.get(m['role'], m['role'].title())}: {m['content']}" for m in prompt]
    return "\n\n".join([*turns, "Assistant:"])


# --- usable groups, and what is left out ----------------------------------------------------------


@dataclass
class Prepared:
    """The groups to train or test on, and an account of the rest: (split, what, why) → how many."""

    evidence: Callable[[Group], Evidence] = plain_evidence
    groups: dict[str, list[Group]] = field(default_factory=lambda: {"train": [], "test": []})
    tokens: dict[str, list[TokenGroup]] = field(default_factory=lambda: {"train": [], "test": []})
    left_out: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, group: Group, chat: ChatFormat, limit: int) -> None:
        """Tokenize one group. Responses over `limit` tokens are left out and counted, never cut."""
        try:
            prompt, responses = chat.encode(group.prompt, group.responses)
        except ValueError as error:
            self.left_out[group.split, "prompts", str(error)] += 1
            return
        fits = self._fitting(group, len(prompt), [len(r) for r in responses], limit)
        readable = keep_responses(group, [group.response_ids[k] for k in fits])
        evidence = self.evidence(readable)
        if not (evidence.wins.any() or np.any(evidence.signals.get("ties", 0))):
            self.left_out[group.split, "prompts", _why_no_evidence(readable)] += 1
            return
        tokens = TokenGroup(prompt, [responses[k] for k in fits], evidence.wins, evidence.signals)
        self.groups[group.split].append(readable)
        self.tokens[group.split].append(tokens)

    def _fitting(self, group: Group, prompt: int, responses: list[int], limit: int) -> list[int]:
        fits = []
        for k, length in enumerate(responses):
            if length == 0:
                self.left_out[group.split, "responses", "empty"] += 1
            elif prompt + length > limit:
                why = f"longer than {limit} tokens with its prompt"
                self.left_out[group.split, "responses", why] += 1
            else:
                fits.append(k)
        return fits

    def make_weights_relative(self) -> None:
        """Divide the weights of groups by their mean over the train split."""
        train = self.tokens["train"]
        mean = relative_to([float(g.signals["weight"]) for g in train if "weight" in g.signals])
        for groups in self.tokens.values():
            groups[:] = [_reweighted(group, 1 / mean) for group in groups]

    def account(self) -> list[LeftOut]:
        """Return what was left out and why, as rows for the report."""
        return [
            {"split": split, "what": what, "why": why, "count": count}
            for (split, what, why), count in sorted(self.left_out.items())
        ]

    def report_left_out(self, run_dir: RunDir) -> None:
        for row in self.account():
            text = f"Left out of {row['split']}: {row['count']} {row['what']}, {row['why']}."
            run_dir.message(text, level="warning")


def _why_no_evidence(group: Group) -> str:
    if len(group.responses) < 2:
        return "fewer than two readable responses"
    if wins(unweighted(group)).any():
        return "all its rankings weigh nothing"
    return "no two responses compared"


def _reweighted(group: TokenGroup, factor: float) -> TokenGroup:
    if "weight" not in group.signals:
        return group
    weight = group.signals["weight"] * np.float32(factor)
    return replace(group, signals={**group.signals, "weight": weight})


def prepare(
    groups: Iterable[Group],
    chat: ChatFormat,
    limit: int,
    evidence: Callable[[Group], Evidence] = plain_evidence,
) -> Prepared:
    prepared = Prepared(evidence)
    for group in groups:
        prepared.add(group, chat, limit)
    return prepared


def read_prepared(
    run_dir: RunDir,
    chat: ChatFormat,
    limit: int,
    evidence: Callable[[Group], Evidence] = plain_evidence,
) -> Prepared:
    """Return the run's data. Raises RecipeError for a file that does not hold preference data."""
    try:
        return prepare(read_folder(run_dir.data), chat, limit, evidence)
    except PreferenceError as error:
        raise RecipeError(str(error)) from error


def nothing_to_train_on(run_dir: RunDir, prepared: Prepared, lacking: str) -> RecipeError:
    """Return the error of a run without training data. `lacking` names what no prompt has."""
    reasons = "; ".join(f"{row['count']} {row['what']}: {row['why']}" for row in prepared.account())
    return RecipeError(
        f"There is nothing to train on in {run_dir.data}: no prompt of the train split has "
        f"{lacking}. Left out: {reasons or 'nothing'}."
    )
