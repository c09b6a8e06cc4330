"""Conversion of chats to text and to tokens, the same in training and in use.

The tokenizer's chat template writes the text. A tokenizer without one gets a plain form. Prompt and
response are tokenized together, as other tools do, and then split where the response begins. If a
token spans that boundary, they are tokenized separately. Control tokens come only from the template.

Legend: P tokens of the prompt, R_k tokens of response k, K responses.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from recipes.models.chat_options import ChatOptions
from recipes.models.chat_template import literals
from recipes.models.control_tokens import ControlTokens, added_tokens_in

Messages = list[dict[str, str]]

PLAIN_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
SENTINELS = ("\u2022first", "\u25e6second")
PROBE = "\u25e6probe"
FINISHED_TURNS = [
    {"role": role, "content": "a"} for role in ("user", "assistant", "user")
]  # templates add an empty thought to the last answer only
ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

CONTROL_TOKENS = "control_tokens"
BOUNDARIES = "boundaries"
CUT_OFF = "cut_off"
REWRITTEN = "rewritten"
NOTES = {
    CONTROL_TOKENS: "texts that contain control tokens, read as plain text",
    BOUNDARIES: "responses of which a token would span the boundary to the prompt, split there",
    CUT_OFF: "responses cut off by a length limit, whose end is not trained",
    REWRITTEN: "responses that the chat template rewrites, read as they are written",
}
"""Descriptions of the counts that are made while chats are tokenized."""


@dataclass(frozen=True)
class Encoded:
    """The token ids of a prompt, (P,), and of its responses, (R_k,) each, all int32.

    `notes` has counts by the keys of NOTES.
    """

    prompt: np.ndarray
    responses: list[np.ndarray]
    notes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, prompt: list[int], responses: list[list[int]], notes: dict[str, int]) -> Self:
        arrays = [np.asarray(ids, dtype=np.int32) for ids in (prompt, *responses)]
        return cls(arrays[0], arrays[1:], +Counter(notes))


@dataclass(frozen=True)
class Marked:
    """A chat whose control tokens are marked. `mark` is empty if it has none."""

    prompt: Messages
    responses: list[str]
    mark: str
    count: int


class ChatFormat:
    """The form in which a tokenizer's conversations are written.

    It has no mutable state, so threads can share it. A conversation in the plain form ends with
    `end_ids` if the tokenizer appends them, and otherwise with the text `ending`.
    """

    def __init__(self, tokenizer: Any, options: ChatOptions | None = None):
        self.tokenizer = tokenizer
        self.options = options or ChatOptions()
        self.template = self.options.template(tokenizer) if tokenizer.chat_template else ""
        self.name = "chat template" if self.template else "plain text"
        self.ending, self.end_ids = "", []
        if not self.template:
            ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
            self.end_ids = [i for i in tokenizer("a")["input_ids"][-1:] if i in ends]
            end_token = tokenizer.eos_token or tokenizer.sep_token or ""
            self.ending = "" if self.end_ids else end_token
        self.control = self.control_tokens()

    def control_tokens(self, stops: Collection[str] = ()) -> ControlTokens:
        """Return the control tokens: special tokens, `stops`, and the tokens that the template writes.

        Only the template may write the control tokens that it uses in finished turns. Models may
        write the others too, such as `<think>`.
        """
        if not self.template:
            return ControlTokens(self.tokenizer, stops)
        try:
            turns = self._apply(FINISHED_TURNS, opening=False)
        except ValueError:
            turns = ""
        return ControlTokens(
            self.tokenizer,
            {*stops, *added_tokens_in(self.tokenizer, [turns])},
            added_tokens_in(self.tokenizer, literals(self.template)),
        )

    def split(self, prompt: Messages, responses: Sequence[str]) -> tuple[str, list[str]]:
        """Return the text that all conversations share, and the rest of the text for each response.

        Raises ValueError if the template refuses a conversation, leaves out one of its messages, or
        writes the prompt differently for different responses.
        """
        if not self.template:
            # In most vocabularies, a space is part of the token of the next word, so the space belongs
            # to the response.
            return plain_prompt(prompt), [f" {response}{self.ending}" for response in responses]
        texts = [self._render(prompt, response) for response in responses]
        shared = self._shared_text(prompt)
        self.refuse_left_out(prompt, shared)
        if not all(text.startswith(shared) for text in texts):
            raise ValueError("the chat template rewrites the prompt according to the response")
        return shared, [text[len(shared) :] for text in texts]

    def encode(
        self, prompt: Messages, responses: Sequence[str]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the token ids of the prompt, (P,), and of each response, (R_k,), all int32."""
        encoded = self.read(prompt, responses)
        return encoded.prompt, encoded.responses

    def read(
        self, prompt: Messages, responses: Sequence[str], cut_off: Sequence[bool] = ()
    ) -> Encoded:
        """Return the tokens of a prompt and its responses. Raises ValueError as `split` does.

        `cut_off` is true for responses that were cut off by a length limit. It has no effect here,
        because a reward model reads complete conversations.
        """
        chat = self.marked(prompt, responses)
        shared, tails = self.split(chat.prompt, chat.responses)
        start, *wholes = self._ids([shared, *(shared + tail for tail in tails)], chat.mark)
        ends, joined = self._after(start, wholes, tails, chat.mark)
        rows = [self._without_padding([*ids, *self.end_ids]) for ids in ends]
        notes = {CONTROL_TOKENS: chat.count, BOUNDARIES: joined.count(False)}
        return Encoded.of(start, rows, notes)

    def marked(self, prompt: Messages, responses: Sequence[str]) -> Marked:
        """Return the chat with marked control tokens.

        Raises ValueError for a role that is not a word, because templates write the roles too.
        """
        for message in prompt:
            if not ROLE.fullmatch(message["role"]):
                raise ValueError(f"a message has the role {message['role'][:40]!r}")
        answers = [{"role": "assistant", "content": response} for response in responses]
        messages, mark, count = self.control.mark([*prompt, *answers])
        texts = [answer["content"] for answer in messages[len(prompt) :]]
        return Marked(messages[: len(prompt)], texts, mark, count)

    def _ids(self, texts: list[str], mark: str = "") -> list[list[int]]:
        """Return the token ids of the texts, without the end token that the tokenizer appends.

        Chat templates write special tokens themselves. For plain text, the tokenizer adds them.
        """
        return self.control.ids(
            texts, mark, add_special_tokens=not self.template, appended=len(self.end_ids)
        )

    def _after(
        self, start: list[int], wholes: list[list[int]], tails: list[str], mark: str
    ) -> tuple[list[list[int]], list[bool]]:
        """Return the ids of each text after the prompt, and whether the whole text has the same ids.

        Responses can share a prompt only if its tokens are the same in every text. The tokens differ
        if one of them spans the boundary between prompt and response.
        """
        joined = [whole[: len(start)] == start for whole in wholes]
        ends = [
            whole[len(start) :] if fits else self._separately(tail, mark)
            for whole, tail, fits in zip(wholes, tails, joined, strict=True)
        ]
        return ends, joined

    def _separately(self, tail: str, mark: str) -> list[int]:
        """Return the ids of a text that continues the prompt."""
        if mark and mark in tail:
            return self.control.ids([mark + tail], mark, add_special_tokens=False)[0]
        return self.control.inside(tail)

    def _without_padding(self, ids: list[int]) -> list[int]:
        """Return the ids without the padding at the end.

        If the tokenizer has no other padding token, its end token counts as padding. Other tools
        ignore the end token then too, because classifiers read the last token that is not padding.
        """
        end = len(ids)
        while end and ids[end - 1] == self.tokenizer.pad_token_id:
            end -= 1
        return ids[:end]

    def _shared_text(self, prompt: Messages) -> str:
        """Return the text that the template writes before every response.

        Templates put the generation prompt in different places, so two renderings are compared.
        """
        probes = [self._render(prompt, sentinel) for sentinel in SENTINELS]
        opening = self._apply(prompt, opening=True)
        if all(probe.startswith(opening) for probe in probes):
            return opening
        same = (n for n, (a, b) in enumerate(zip(*probes, strict=False)) if a != b)
        return probes[0][: next(same, 0)]

    def refuse_left_out(self, prompt: Messages, text: str) -> None:
        """Raise ValueError if the template leaves out a message of the prompt.

        Templates may change the form of a message. So only a message whose content is not in the
        text is examined more closely.
        """
        for number, message in enumerate(prompt):
            content = message["content"].strip()
            if content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text:
                continue
            probe = [*prompt[:number], {**message, "content": PROBE}, *prompt[number + 1 :]]
            if PROBE not in self._apply(probe, opening=True):
                raise ValueError(f"the chat template leaves out the {message['role']} message")

    def _render(self, prompt: Messages, response: str) -> str:
        return self._apply([*prompt, {"role": "assistant", "content": response}], opening=False)

    def _apply(self, messages: Messages, *, opening: bool) -> str:
        return self.options.render(self.tokenizer, self.template, messages, opening=opening)


def plain_prompt(prompt: Messages) -> str:
    turns = [f"{PLAIN_ROLES.get(m['role'], m['role'].title())}: {m['content']}" for m in prompt]
    return "\n\n".join([*turns, "Assistant:"])
