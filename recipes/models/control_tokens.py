"""Tokenizing control tokens in the texts of people and models as plain text.

A tokenizer turns the text `<|im_end|>` into the token that ends a turn, wherever the text occurs. In
a prompt or response, this token would end the turn too early or begin another. So only the chat
template may write control tokens. In all other texts, they are marked before the template is
applied. Marked texts are then tokenized by a copy of the tokenizer that has no control tokens.
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

MARKS = range(0xE000, 0xF900)
"""The characters for private use in Unicode. The first one that no text contains is the mark."""
ANCHORS = ("\n", "0", ".")
"""Candidates for a prefix that keeps the tokenizer from adding a space before a text. The first one
that is not merged with the text is used."""


class ControlTokens:
    """The control tokens of a tokenizer, and the tokenization of texts with marked control tokens.

    `in_answers` are the control tokens that no text may contain. They always include the special
    tokens of the tokenizer. `elsewhere` are tokens such as `<think>`, which the answers of the model
    may contain, but the messages of users may not.
    """

    def __init__(
        self, tokenizer: Any, in_answers: Collection[str] = (), elsewhere: Collection[str] = ()
    ):
        self.tokenizer = tokenizer
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        special |= {token for token in tokenizer.all_special_tokens if token}
        self.in_answers = _pattern(special | set(in_answers))
        self.elsewhere = _pattern(special | set(in_answers) | set(elsewhere))
        self._as_text: dict[str, list[int]] = {}

    def mark(self, messages: Sequence[dict[str, str]]) -> tuple[list[dict[str, str]], str, int]:
        """Return the messages with marked control tokens, the mark, and how many texts are marked.

        The mark is empty if no text contains a control token.
        """
        patterns = [
            self.in_answers if m["role"] == "assistant" else self.elsewhere for m in messages
        ]
        pairs = list(zip(messages, patterns, strict=True))
        count = sum(pattern.search(m["content"]) is not None for m, pattern in pairs)
        if not count:
            return list(messages), "", 0
        mark = _unused_character(m["content"] for m in messages)
        marked = [
            {**m, "content": pattern.sub(rf"{mark}\g<0>{mark}", m["content"])}
            for m, pattern in pairs
        ]
        return marked, mark, count

    def ids(
        self, texts: list[str], mark: str, *, add_special_tokens: bool, appended: int = 0
    ) -> list[list[int]]:
        """Return the token ids of each text. Marked control tokens become plain text.

        `appended` is the number of tokens that the tokenizer adds at the end of a text; they are left
        out. Raises ValueError for a control token that the tokenizer cannot write as plain text.
        """
        parts = [[text] for text in texts]
        if mark:  # text, control token or None, text, …
            marked = re.compile(f"{mark}({self.elsewhere.pattern}){mark}|{mark}")
            parts = [marked.split(text) for text in texts]
        begins = self.tokenizer([part[0] for part in parts], add_special_tokens=add_special_tokens)
        rows = []
        for begin, (_, *rest) in zip(begins["input_ids"], parts, strict=True):
            ids = begin[: len(begin) - appended]
            for number, piece in enumerate(rest):
                if piece:
                    ids += self.inside(piece) if number % 2 else self.as_text(piece)
            rows.append(ids)
        return rows

    def inside(self, text: str) -> list[int]:
        """Return the ids of a text that continues another text.

        Some tokenizers put a space before each text. Inside a text, they must not.
        """
        return _after_anchor(text, lambda t: self.tokenizer(t, add_special_tokens=False).input_ids)

    def as_text(self, token: str) -> list[int]:
        """Return the ids of a control token as plain text.

        Raises ValueError if the tokenizer cannot write the token in this way.
        """
        if token not in self._as_text:
            ids = _after_anchor(token, self._plain_ids)
            if self.tokenizer.convert_tokens_to_ids(token) in ids:
                raise ValueError(f"the tokenizer cannot write {token} as plain text")
            self._as_text[token] = ids
        return self._as_text[token]

    def _plain_ids(self, text: str) -> list[int]:
        if self._plain is None:
            raise ValueError(f"the tokenizer cannot write {text.strip()} as plain text")
        return self._plain.encode(text, add_special_tokens=False).ids

    @cached_property
    def _plain(self) -> Tokenizer | None:
        """Return the tokenizer without control tokens, or None if it is written in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        return Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), "added_tokens": []}))


def added_tokens_in(tokenizer: Any, texts: Iterable[str]) -> set[str]:
    """Return the added tokens that occur in any of the texts, except those of whitespace only."""
    texts = list(texts)
    added = (token.content for token in tokenizer.added_tokens_decoder.values())
    return {t for t in added if t.strip() and any(t in text for text in texts)}


def _pattern(tokens: Collection[str]) -> re.Pattern[str]:
    return re.compile(_alternatives(set(tokens)) or r"(?!)")


def _alternatives(texts: Collection[str]) -> str:
    """Return a regular expression that matches the longest of the texts.

    Texts with the same beginning share a part of the expression. So a search with a thousand control
    tokens takes the same time as one with ten.
    """
    rests: dict[str, list[str]] = {}
    for text in filter(None, texts):
        rests.setdefault(text[0], []).append(text[1:])
    branches = [re.escape(first) + _alternatives(rest) for first, rest in sorted(rests.items())]
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)}){'?' if '' in texts else ''}"


def _unused_character(texts: Iterable[str]) -> str:
    used = set().union(*texts)
    return next(mark for code in MARKS if (mark := chr(code)) not in used)


def _after_anchor(text: str, ids_of: Any) -> list[int]:
    for anchor in ANCHORS:
        before, whole = ids_of(anchor), ids_of(anchor + text)
        if whole[: len(before)] == before:
            return whole[len(before) :]
    return ids_of(text)
