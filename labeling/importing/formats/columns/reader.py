"""Reading rows by the meaning of their columns.

Rows with one response each belong together when they have the same prompt, at any position in the
file. A row with several responses, or a preference between them, is a separate task.
"""

import json
import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from labeling.importing.files.rows import Cells
from labeling.importing.files.source import each_row
from labeling.importing.formats.columns import values
from labeling.importing.formats.columns.answers import (
    BOTH_BAD,
    TIES,
    Answer,
    Row,
    Verdict,
    belongs,
    mark_of,
    response_named,
)
from labeling.importing.formats.columns.drafts import draft_of
from labeling.importing.formats.columns.grouping import all_groups, consecutive_groups
from labeling.importing.formats.columns.mapping import Mapping
from labeling.importing.formats.conversations import (
    Messages,
    finite,
    name_of,
    number,
    same_start,
    tiers_and_strength,
)
from labeling.importing.records import BadInput, PromptRecord, Tally

TEXT = ("text", "response", "content", "answer", "output", "completion", "generation", "value")
MODEL = ("model", "model_name", "generator")
ID = ("id", "response_id", "answer_id", "completion_id", "output_id", "external_id", "uuid")
RANK = ("rank",)
SCORE = ("score", "overall_score", "rating", "reward")
APART = "pairs that differ in more than the last answer"
NO_RESPONSE = "empty responses"
NO_OWNER = "ids that match no response of their row"
UNREADABLE = "rows whose preference is empty"


def read(
    path: Path, tally: Tally, mapping: Mapping, reviewer: str, *, scattered: bool = False
) -> Iterator[PromptRecord]:
    """Yield the prompts of a file whose columns mean what `mapping` says. Raises BadInput.

    Raises ScatteredRows when rows of one prompt do not follow each other and `scattered` is not set.
    """
    rows_read = each_row(path, tally, partial(_row, mapping, tally))
    group = all_groups if scattered else consecutive_groups
    for rows in group(rows_read, _key):
        yield from draft_of(rows, reviewer, tally).records(tally)


def _key(row: Row) -> Hashable:
    """Return the prompt of a row whose other responses may be in other rows, or None."""
    if row.verdict is not None or len(row.answers) > 1:
        return None
    return tuple([(message["role"], message["content"]) for message in row.messages])


# --- a row ---------------------------------------------------------------------------------------


def _row(mapping: Mapping, tally: Tally, line: int, row: dict[str, Any]) -> list[Row]:
    columns = mapping.of(row)
    tally.read["rows"] += 1
    tally.columns.add(row, columns.meaning)
    reading = _Reading(line, row, columns.by_meaning, columns.metadata, tally)
    return [] if (result := reading.row()) is None else [result]


@dataclass
class _Reading:
    line: int
    source: dict[str, Any]
    columns: dict[str, list[str]]
    metadata: list[str]
    tally: Tally

    def row(self) -> Row | None:
        if self.columns["chosen"] or self.columns["rejected"]:
            content = self._pair()
        else:
            content = self._answers()
        if content is None:
            return None
        messages, answers, verdict = content
        return Row(
            self.line,
            messages,
            answers,
            verdict,
            external_id=self._id("id"),
            task_id=self._id("task_id"),
            meta=self._meta(),
            reviewer=self._id("reviewer"),
            rationale=self._text("rationale"),
        )

    def _text(self, meaning: str) -> str:
        """Return the texts of all columns of a meaning. Other values are converted to JSON."""
        if not (names := self.columns[meaning]):
            return ""
        parts = (finite(self.source.get(name)) for name in names)
        return "\n\n".join(
            part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part not in (None, "", [], {})
        )

    def _id(self, meaning: str) -> str:
        if not (names := self.columns[meaning]):
            return ""
        ids = (name_of(self.source.get(name)) for name in names)
        return " ".join(text for text in ids if text)

    def _meta(self) -> dict[str, Any]:
        """Return the columns to be stored with the prompt, without empty values."""
        if not self.metadata:
            return {}
        empty: tuple[Any, ...] = (
            ("", [], {}, None) if isinstance(self.source, Cells) else ("", [], {})
        )
        return {
            name: finite(self.source[name])
            for name in self.metadata
            if self.source[name] not in empty
        }

    # --- the prompt ---

    def _prompt(self) -> Messages:
        names = self.columns["prompt"]
        parts = [
            values.chat_or_text(self.source, name)
            for name in names
            if self.source.get(name) not in (None, "", [])
        ]
        if len(parts) > 1:
            texts = [values.as_text(part) for part in parts]
            if all(text is not None for text in texts):
                parts = ["\n\n".join(text for text in texts if text)]
        messages: Messages = []
        for part in parts:
            messages += values.messages(part, self.line, names[0], self.tally)
        return [*self._before(), *messages] if messages else []

    def _before(self) -> Messages:
        if not self.columns["system"] and not self.columns["history"]:
            return []
        system = self._text("system")
        start: Messages = [{"role": "system", "content": system}] if system else []
        for name in self.columns["history"]:
            turns = values.structure(self.source, name) or []
            if not isinstance(turns, list):
                raise BadInput(f'"{name}" must be a list of turns; got {turns!r:.40}.', self.line)
            for turn in turns:
                start += self._turn(name, turn)
        return start

    def _turn(self, name: str, turn: Any) -> Messages:
        """Return one part of the history: a question with its answer, a message, or a text."""
        if values.is_message(turn):
            return [values.message(turn, self.line, name, self.tally, f"{name}[].")]
        texts = values.texts(turn if isinstance(turn, list) else [turn])
        if texts is None:
            raise BadInput(f'a turn of "{name}" must hold texts; got {str(turn)[:40]}.', self.line)
        return values.turns(texts)

    def _chat(self) -> tuple[Messages, str | None] | None:
        """Return a whole chat as its prompt and its last answer."""
        for name in self.columns["chat"]:
            value = values.structure(self.source, name)
            if value in (None, "", []):
                continue
            chat = [*self._before(), *values.messages(value, self.line, name, self.tally)]
            if chat[-1]["role"] != "assistant":
                return chat, None
            if not any(message["role"] == "user" for message in chat):
                raise BadInput(
                    f'the chat in "{name}" has no user message before the answer.', self.line
                )
            return chat[:-1], chat[-1]["content"]
        return None

    def _needed(self, messages: Messages) -> Messages:
        if not messages:
            names = ", ".join(self.columns["prompt"] or self.columns["chat"]) or "prompt"
            raise BadInput(f'the row has no prompt ("{names}" is empty).', self.line)
        return messages

    # --- pairs ---

    def _pair(self) -> tuple[Messages, list[Answer], Verdict | None] | None:
        sides = [(n, "chosen") for n in self.columns["chosen"]]
        sides += [(n, "rejected") for n in self.columns["rejected"]]
        candidates = [
            (name, side, part)
            for name, side in sides
            for part in self._parts(values.chat_or_text(self.source, name))
        ]
        prompt = self._prompt()
        if not prompt and (chat := self._chat()):
            prompt = chat[0] if chat[1] is None else [*chat[0], _assistant(chat[1])]
        if not prompt:
            return self._shared_prompt(candidates)
        answers = [Answer(self._last(part, prompt, name), name) for name, _, part in candidates]
        return prompt, *self._ordered(answers, [side for _, side, _ in candidates])

    def _parts(self, value: Any) -> list[Any]:
        """Return the answers on one side of a pair; a list of texts holds several."""
        if value in (None, ""):
            return []
        if isinstance(value, str):
            return [value]
        texts = values.texts(value)
        if texts is None:
            return [value]
        self.tally.left_out[NO_RESPONSE] += len(value) - len(texts)
        return list(texts)

    def _last(self, value: Any, prompt: Messages, name: str) -> str:
        """Return the answer of a side, without the prompt that may be repeated before it."""
        if (text := values.as_text(value)) is not None:
            return text
        chat = values.messages(value, self.line, name, self.tally)
        shared = len(prompt) if chat[: len(prompt)] == prompt else 0
        without = [m for m in prompt if m["role"] != "system"]
        if not shared and chat[: len(without)] == without:
            shared = len(without)
        rest = chat[shared:]
        if len(rest) != 1 or rest[0]["role"] != "assistant":
            raise BadInput(
                f'"{name}" must hold one answer of the assistant after the prompt; it holds '
                f"{len(rest)} messages that are not in the prompt.",
                self.line,
            )
        return rest[0]["content"]

    def _shared_prompt(
        self, candidates: Sequence[tuple[str, str, Any]]
    ) -> tuple[Messages, list[Answer], Verdict | None] | None:
        """Return whole chats as their common beginning, the prompt, and their last answers."""
        chats = [
            values.messages(part, self.line, name, self.tally)
            for name, _, part in candidates
            if values.as_text(part) is None
        ]
        if len(chats) < 2 or len(chats) < len(candidates):
            raise BadInput(
                "no column holds the prompt, and the responses are texts. Choose the prompt's column.",
                self.line,
            )
        shared = min(same_start(chats[0], other) for other in chats[1:])
        shared = min(shared, *(len(chat) - 1 for chat in chats))
        if not shared or any(
            len(chat) != shared + 1 or chat[-1]["role"] != "assistant" for chat in chats
        ):
            self.tally.left_out[APART] += 1
            return None
        answers = [
            Answer(chat[-1]["content"], name)
            for chat, (name, _, _) in zip(chats, candidates, strict=True)
        ]
        prompt = [*self._before(), *chats[0][:shared]]
        return prompt, *self._ordered(answers, [side for _, side, _ in candidates])

    def _ordered(
        self, answers: list[Answer], sides: list[str]
    ) -> tuple[list[Answer], Verdict | None]:
        self._models(answers)
        self._ids(answers)
        chosen = [n for n, side in enumerate(sides) if side == "chosen" and answers[n].text.strip()]
        rejected = [
            n for n, side in enumerate(sides) if side == "rejected" and answers[n].text.strip()
        ]
        if not chosen or not rejected:
            self.tally.left_out["pairs with only one side"] += 1
            return [answer for answer in answers if answer.text.strip()], None
        return answers, Verdict([chosen, rejected])

    # --- responses ---

    def _answers(self) -> tuple[Messages, list[Answer], Verdict | None] | None:
        if isinstance(self.source, Cells) and (turns := self._turns(self.source)):
            return self._whole_chats(turns)
        prompt = self._prompt()
        answers: list[Answer] = []
        chats = [self._compared(name) for name in self.columns["response"] if self._is_chat(name)]
        if chat := self._chat():
            start, text = chat
            prompt = prompt or start
            if text is not None:
                answers.append(Answer(text, self.columns["chat"][0]))
        elif chats and not prompt:
            return self._whole_chats(chats)
        best_first = False
        for meaning in ("response", "best_first"):
            for name in self.columns[meaning]:
                answers += self._read(name)
                best_first = best_first or meaning == "best_first"
        self._models(answers)
        self._ids(answers)
        self._marks(answers)
        answers = self._filled(answers)  # not earlier: lists of marks count empty responses too
        verdict = self._verdict(answers)
        if best_first and len(answers) > 1:
            verdict = Verdict([[n] for n in range(len(answers))])
        return self._needed(prompt), answers, verdict

    def _turns(self, cells: Cells) -> list[tuple[str, Messages]]:
        """Return chats from cells that hold a list of prompts and equally long lists of answers."""
        if len(self.columns["prompt"]) != 1:
            return []
        questions = values.structure(cells, self.columns["prompt"][0])
        replies = [(name, values.structure(cells, name)) for name in self.columns["response"]]
        if not _texts(questions) or not replies:
            return []
        if not all(_texts(texts) and len(texts) == len(questions) for _, texts in replies):
            return []
        return [
            (
                name,
                values.turns(
                    [text for pair in zip(questions, texts, strict=True) for text in pair]
                ),
            )
            for name, texts in replies
        ]

    def _is_chat(self, name: str) -> bool:
        value = values.structure(self.source, name)
        return isinstance(value, list) and len(value) > 1 and values.is_chat(value)

    def _compared(self, name: str) -> tuple[str, Messages]:
        value = values.structure(self.source, name)
        return name, values.messages(value, self.line, name, self.tally)

    def _whole_chats(
        self, chats: list[tuple[str, Messages]]
    ) -> tuple[Messages, list[Answer], Verdict | None] | None:
        """Compare chats with several models, if only their last answers differ."""
        first = chats[0][1]
        if any(chat[:-1] != first[:-1] or chat[-1]["role"] != "assistant" for _, chat in chats):
            self.tally.left_out[APART] += 1
            return None
        answers = [Answer(chat[-1]["content"], name) for name, chat in chats]
        self._models(answers)
        self._ids(answers)
        self._marks(answers)
        return [*self._before(), *first[:-1]], answers, self._verdict(answers)

    def _read(self, name: str) -> list[Answer]:
        value = values.chat_or_text(self.source, name)
        if value in (None, ""):
            if name in self.source and value == "":
                self.tally.left_out[NO_RESPONSE] += 1
            return []
        listed = values.structure(self.source, name) if name.lower().endswith("s") else value
        if isinstance(listed, str) and isinstance(value, str):
            return [Answer(value, name)]  # nearly every response
        if isinstance(listed, list) and not values.is_chat(listed):
            return [self._one_of(part, name, f"{name}[]") for part in listed]
        if isinstance(value, dict) and not values.is_message(value):
            return [self._one_of(value, name, name)]
        return [Answer(values.reply(value, self.line, name, self.tally), name)]

    def _filled(self, answers: list[Answer]) -> list[Answer]:
        filled = [answer for answer in answers if answer.text.strip()]
        if len(filled) < len(answers):
            self.tally.left_out[NO_RESPONSE] += len(answers) - len(filled)
        return filled

    def _one_of(self, part: Any, name: str, path: str) -> Answer:
        """Return one element of a list of responses, which may have a model, rank and score."""
        if part is None:
            return Answer("", name)
        if not isinstance(part, dict):
            return Answer(values.reply(part, self.line, path, self.tally), name)
        own = next((k for k in ID if name_of(part.get(k))), "")
        model = next((k for k in MODEL if part.get(k)), "")
        rank = next((k for k in RANK if number(part.get(k)) is not None), "")
        score = next((k for k in SCORE if number(part.get(k)) is not None), "")
        meaning = {own: "response_id", model: "model", rank: "rank", score: "score"}
        meaning.pop("", None)  # the key "" stands for marks that are absent
        marks = {k: part[k] for k in part if k in meaning}
        self.tally.columns.add(marks, meaning, prefix=f"{path}.")
        return Answer(
            self._text_of({k: part[k] for k in part if k not in marks}, name, path),
            name,
            model=str(part.get(model) or ""),
            external_id=name_of(part.get(own)),
            rank=number(part.get(rank)),
            score=number(part.get(score)),
        )

    def _text_of(self, part: dict[str, Any], name: str, path: str) -> str:
        """Return the text of an element of a list of responses, a message or another object."""
        if values.is_message(part):
            return values.reply(part, self.line, path, self.tally)
        key = next((key for key in TEXT if part.get(key) is not None), None)
        if key is None:
            raise BadInput(
                f'a response in "{name}" has no text; it has {", ".join(part) or "nothing"}.',
                self.line,
            )
        self.tally.columns.add(part, {key: "response"}, prefix=f"{path}.")
        return values.reply(part[key], self.line, f"{path}.{key}", self.tally)

    def _models(self, answers: list[Answer]) -> None:
        if not (names := self.columns["model"]):
            return
        flat: list[str] = []
        single: list[tuple[str, str]] = []
        for name in names:
            value = values.structure(self.source, name)
            if isinstance(value, list):
                flat += ["" if model is None else str(model) for model in value]
            elif value:
                single.append((name, str(value)))
        for index, answer in enumerate(answers):
            if answer.model:
                continue
            own = [model for name, model in single if belongs(name, answer.column)]
            if index < len(flat):
                answer.model = flat[index]
            elif own:
                answer.model = own[0]
            elif len(single) == 1 and not _of_one_side(single[0][0]):
                answer.model = single[0][1]

    def _ids(self, answers: list[Answer]) -> None:
        """Set the id of each response, from a separate column or a list in the same order."""
        for name in self.columns["response_id"]:
            value = values.structure(self.source, name)
            owners = [a for a in answers if belongs(name, a.column)]
            if isinstance(value, list):
                self._spread(owners or answers, "external_id", name, value)
                continue
            owners = owners or (answers if len(answers) == 1 else [])
            self.tally.left_out[NO_OWNER] += bool(name_of(value)) and not owners
            for answer in owners:
                answer.external_id = answer.external_id or name_of(value)

    # --- judgments ---

    def _marks(self, answers: list[Answer]) -> None:
        for meaning in ("label", "rank", "score"):
            names = self.columns[meaning]
            for name in names:
                value = values.structure(self.source, name)
                if isinstance(value, list):
                    self._spread(answers, meaning, name, value)
                elif value not in (None, ""):
                    owners = (
                        answers
                        if len(answers) == 1
                        else [a for a in answers if belongs(name, a.column)]
                    )
                    for answer in owners:
                        setattr(answer, meaning, self._value(meaning, name, value))
        for answer in answers if len(answers) == 1 else []:
            for name in self.columns["rating"]:
                if (rating := number(self.source.get(name))) is not None:
                    answer.ratings[name] = int(rating)

    def _spread(self, answers: list[Answer], meaning: str, name: str, cells: list[Any]) -> None:
        if len(cells) != len(answers):
            raise BadInput(
                f'"{name}" has {len(cells)} values for {len(answers)} responses.', self.line
            )
        for answer, value in zip(answers, cells, strict=True):
            if value is not None:
                setattr(answer, meaning, self._value(meaning, name, value))

    def _value(self, meaning: str, name: str, value: Any) -> Any:
        if meaning == "external_id":
            return name_of(value)
        if meaning == "label":
            text = str(value).strip().lower()
            if text in ("true", "1", "1.0", "yes"):
                return True
            if text in ("false", "0", "0.0", "no", "-1"):
                return False
            raise BadInput(f'"{name}" must be true or false; got {value!r}.', self.line)
        if (parsed := number(value)) is None:
            raise BadInput(f'"{name}" must be a number; got {value!r}.', self.line)
        return parsed

    def _verdict(self, answers: list[Answer]) -> Verdict | None:
        for name in self.columns["preference"]:
            value = self.source.get(name)
            if value in (None, "") or len(answers) != 2:
                continue
            if (score := number(value)) is None:
                raise BadInput(f'"{name}" must be a number; got {value!r}.', self.line)
            tiers, strength = tiers_and_strength(0, 1, score)
            return Verdict(tiers, strength=strength)
        if len(self.columns["winner"]) > 1:
            return self._one_hot(answers)
        for name in self.columns["winner"]:
            if self.source.get(name) in (None, ""):
                self.tally.left_out[UNREADABLE] += 1
                continue
            return self._won(name, values.structure(self.source, name), answers)
        return None

    def _one_hot(self, answers: list[Answer]) -> Verdict | None:
        """Read columns such as winner_model_a and winner_tie, of which one is true."""
        chosen = [
            name for name in self.columns["winner"] if (number(self.source.get(name)) or 0) > 0
        ]
        if len(chosen) != 1:
            self.tally.left_out[UNREADABLE] += 1
            return None
        return self._won(chosen[0], re.sub(r"^winner_", "", chosen[0].lower()), answers)

    def _won(self, name: str, value: Any, answers: list[Answer]) -> Verdict:
        winner = str(value).strip().lower()
        indexes = list(range(len(answers)))
        if winner in BOTH_BAD:
            return Verdict([indexes], cut=0)
        if winner in TIES:
            return Verdict([indexes])
        best = response_named(winner, answers)
        if best is None:
            columns = ", ".join(answer.column for answer in answers)
            raise BadInput(
                f'"{name}" is {value!r}, which is neither one of the responses ({columns}) nor a '
                "tie.",
                self.line,
            )
        return Verdict([[best], [n for n in indexes if n != best]])


@lru_cache(maxsize=1000)
def _of_one_side(name: str) -> bool:
    """Return whether a column describes one response only, by its number or its side."""
    return bool(mark_of(name)) or bool(re.search("chosen|rejected", name, re.IGNORECASE))


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
