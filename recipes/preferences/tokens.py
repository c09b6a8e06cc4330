"""Groups as tokens, with the same prompt tokens for all responses of a group.

Groups and responses that cannot be used are left out and counted. The tokens come from
recipes/models/chat_format.py.

Legend: P tokens of the prompt, R_k tokens of response k, K responses.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recipes.errors import RecipeError
from recipes.models.chat_format import NOTES, ChatFormat
from recipes.preferences.groups import (
    RESPONSES_CUT_OFF,
    Group,
    PreferenceError,
    keep_responses,
    read_folder,
)
from recipes.preferences.loss_inputs import (
    LossInputs,
    Objection,
    Signals,
    plain_loss_inputs,
    relative_to,
    why_no_comparison,
)
from recipes.report import LeftOut
from recipes.rundir import RunDir

EQUAL = "the same tokens as an earlier response to its prompt"


@dataclass(frozen=True)
class TokenGroup:
    """One prompt, its K responses and what its loss reads, as numbers."""

    prompt: np.ndarray  # (P,) int32
    responses: list[np.ndarray]  # K arrays (R_k,) int32
    wins: np.ndarray  # (K, K) float32
    signals: Signals = field(default_factory=dict)  # see loss_inputs.py
    mismatched: "TokenGroup | None" = None
    """The same prompt with responses to another prompt, if the method needs their log π."""

    def longest(self) -> int:
        """Return the length of the prompt with its longest response, in tokens."""
        return len(self.prompt) + max(len(response) for response in self.responses)

    def size(self) -> int:
        """Return the number of tokens with a shared prompt, P + ΣR."""
        return len(self.prompt) + sum(len(response) for response in self.responses)

    def only(self, indices: Sequence[int], **signals: np.ndarray) -> "TokenGroup":
        """Return the group with only these responses and signals."""
        responses = [self.responses[k] for k in indices]
        return TokenGroup(self.prompt, responses, self.wins[np.ix_(indices, indices)], signals)

    def lengths(self) -> np.ndarray:
        """Return the lengths of the responses in tokens, (K,) float64."""
        return np.array([len(response) for response in self.responses], dtype=float)


# --- usable groups, and what is left out ----------------------------------------------------------


@dataclass
class Prepared:
    """The groups to train or test on, and counts of the data that is left out.

    The keys of the counts are (split, what, why). `notes` counts properties of the texts that are
    used, by (split, key of NOTES).
    """

    loss_inputs: Callable[[Group], LossInputs] = plain_loss_inputs
    groups: dict[str, list[Group]] = field(default_factory=lambda: {"train": [], "test": []})
    tokens: dict[str, list[TokenGroup]] = field(default_factory=lambda: {"train": [], "test": []})
    left_out: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)
    objection: Objection = why_no_comparison

    def add(self, group: Group, chat: ChatFormat, limit: int) -> None:
        """Tokenize one group. Responses with more than `limit` tokens are left out and counted."""
        cut_off = group.meta.get(RESPONSES_CUT_OFF) or [False] * len(group.responses)
        try:
            encoded = chat.read(group.prompt, group.responses, cut_off)
        except ValueError as error:
            self.left_out[group.split, "prompts", str(error)] += 1
            return
        prompt, responses = encoded.prompt, encoded.responses
        for note, count in encoded.notes.items():
            self.notes[group.split, note] += count
        fits = self._fitting(group, len(prompt), responses, limit)
        readable = keep_responses(group, [group.response_ids[k] for k in fits])
        inputs = self.loss_inputs(readable)
        if why := self.objection(readable, inputs):
            self.left_out[group.split, "prompts", why] += 1
            return
        tokens = TokenGroup(prompt, [responses[k] for k in fits], inputs.wins, inputs.signals)
        self.groups[group.split].append(readable)
        self.tokens[group.split].append(tokens)

    def _fitting(
        self, group: Group, prompt: int, responses: list[np.ndarray], limit: int
    ) -> list[int]:
        fits: list[int] = []
        tokens: set[bytes] = set()
        for k, response in enumerate(responses):
            if len(response) == 0:
                self.left_out[group.split, "responses", "empty"] += 1
            elif prompt + len(response) > limit:
                why = f"longer than {limit} tokens with its prompt"
                self.left_out[group.split, "responses", why] += 1
            elif response.tobytes() in tokens:
                self.left_out[group.split, "responses", EQUAL] += 1
            else:
                tokens.add(response.tobytes())
                fits.append(k)
        return fits

    def make_weights_relative(self) -> None:
        """Divide the weights of groups by their mean over the train split."""
        train = self.tokens["train"]
        mean = relative_to([float(g.signals["weight"]) for g in train if "weight" in g.signals])
        for groups in self.tokens.values():
            groups[:] = [_reweighted(group, 1 / mean) for group in groups]

    def account(self) -> list[LeftOut]:
        """Return the counts of the data that was left out, as rows for the report."""
        return [
            {"split": split, "what": what, "why": why, "count": count}
            for (split, what, why), count in sorted(self.left_out.items())
        ]

    def text_notes(self) -> dict[str, dict[str, int]]:
        """Return the counts of NOTES by split, for the report."""
        counts: dict[str, dict[str, int]] = {split: {} for split in self.groups}
        for (split, note), count in sorted(self.notes.items()):
            counts[split][note] = count
        return counts

    def report_left_out(self, run_dir: RunDir) -> None:
        for row in self.account():
            text = f"Left out of {row['split']}: {row['count']} {row['what']}, {row['why']}."
            run_dir.message(text, level="warning")
        for (split, note), count in sorted(self.notes.items()):
            run_dir.message(f"In {split}: {count} {NOTES[note]}.")


def _reweighted(group: TokenGroup, factor: float) -> TokenGroup:
    if "weight" not in group.signals:
        return group
    weight = group.signals["weight"] * np.float32(factor)
    return replace(group, signals={**group.signals, "weight": weight})


def prepare(
    groups: Iterable[Group],
    chat: ChatFormat,
    limit: int,
    loss_inputs: Callable[[Group], LossInputs] = plain_loss_inputs,
    objection: Objection = why_no_comparison,
) -> Prepared:
    prepared = Prepared(loss_inputs, objection=objection)
    for group in groups:
        prepared.add(group, chat, limit)
    return prepared


def read_prepared(
    run_dir: RunDir,
    chat: ChatFormat,
    limit: int,
    loss_inputs: Callable[[Group], LossInputs] = plain_loss_inputs,
    objection: Objection = why_no_comparison,
) -> Prepared:
    """Return the data of the run. Raises RecipeError for a file that is not preference data."""
    try:
        return prepare(read_folder(run_dir.data), chat, limit, loss_inputs, objection)
    except PreferenceError as error:
        raise RecipeError(str(error)) from error


def no_training_data(run_dir: RunDir, prepared: Prepared, lacking: str) -> RecipeError:
    """Return the error for a run without training data.

    `lacking` says what all prompts lack, such as a pair.
    """
    reasons = "; ".join(f"{row['count']} {row['what']}: {row['why']}" for row in prepared.account())
    return RecipeError(
        f"There is nothing to train on in {run_dir.data}: no prompt of the train split has "
        f"{lacking}. Left out: {reasons or 'nothing'}."
    )
