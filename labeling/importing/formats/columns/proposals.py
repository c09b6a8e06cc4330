"""Propose the meaning of each column from its name and its values in the first rows.

Where the meaning is unclear, a proposal contains a question, which the user answers with a mapping.
Nothing is imported while a question is open.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from labeling.importing.formats.columns import values
from labeling.importing.formats.columns.answers import belongs
from labeling.importing.formats.columns.mapping import (
    JUDGMENTS,
    LOOKS_LIKE_PREFERENCE,
    Mapping,
    fits,
    natural,
    normal,
)

PROMPT = (
    "prompt", "question", "instruction", "query", "user_prompt", "problem", "context", "post", "input",
)  # fmt: skip
MORE_PROMPT = {"instruction": ("input", "query")}
"""Additional prompt columns. In Alpaca files, `input` belongs to the instruction, and is often empty."""
SYSTEM = ("system", "system_prompt", "system_message")
HISTORY = ("history", "conversation_history")
CHAT = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue")
PAIRS = (
    ("chosen", "rejected"),
    ("chosen_messages", "rejected_messages"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("preferred_output", "non_preferred_output"),
    ("preferred", "non_preferred"),
    ("preferred", "dispreferred"),
    ("accepted", "rejected"),
)
ONE = ("response", "completion", "answer", "output", "generation", "reply")
SEVERAL = (*(f"{name}s" for name in ONE), "replies", "candidates")
NUMBERED = re.compile(
    r"(?:response|completion|answer|output|generation|reply|candidate|conversation)[_ -]?([0-9]{1,3}|[a-i])",
    re.IGNORECASE,
)
LABEL = ("label", "kto_tag", "kto", "desirable", "is_chosen", "thumbs_up")
WINNER = (
    "winner", "better_response_id", "better_response", "preferred_response", "better", "choice",
    "preference", "overall_preference_label", "vote", "verdict", "comparison", "pairwise", "selected",
)  # fmt: skip
PREFERENCE = ("preference_strength", "overall_preference")
RANK = re.compile(
    r"(?:ranks?|(?:response|answer|completion|output)s?[_ ]?[0-9a-i]*[_ ]rank|rank[_ ]?[0-9a-i]+)",
    re.IGNORECASE,
)
SCORE = re.compile(
    r"(?:scores?|ratings?|rewards?|(?:response|answer|completion|output)s?[_ ]?[0-9a-i]*[_ ](?:score|rating|reward)|(?:score|rating|reward)[_ ]?(?:[0-9]+|[a-i]))",
    re.IGNORECASE,
)
MODEL = re.compile(
    r"(?:model|model_name|models|model_names|generator|model[_ ]?(?:name[_ ]?)?(?:[0-9]+|[a-i])|(?:chosen|rejected)[_-]model)",
    re.IGNORECASE,
)
ID = (
    "prompt_id", "question_id", "id", "example_id", "conversation_id", "uuid", "uid", "sample_id",
)  # fmt: skip
TASK_ID = ("task_id", "comparison_id", "pair_id")
RESPONSE_ID = re.compile(
    r"(?:response|completion|answer|output|generation|reply|candidate|chosen|rejected)s?"
    r"(?:[_ ]?(?:[0-9]{1,3}|[a-i]))?[_ ]ids?(?:[_ ]?(?:[0-9]{1,3}|[a-i]))?",
    re.IGNORECASE,
)
REVIEWER = ("reviewer", "annotator", "annotator_id", "judge", "labeler", "user_id")
RATIONALE = ("rationale", "reason", "preference_statement")
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ONE_HOT = re.compile(r"winner_(?:model_)?(?:[a-i]|tie|both_?bad)")
SECOND = re.compile(
    r"margin|(?:score|rating|reward)s?[_-](?:chosen|rejected)|(?:chosen|rejected)[_-](?:score|rating|reward)"
    r"|preference_elaboration|three_most_similar_preferences|all_preferences_unprocessed"
    r"|safer_response_id|is_response_\d_safe|response_\d_severity_level",
    re.IGNORECASE,
)
"""Columns with details of a preference that is in another column. They are stored as metadata."""
ANSWERS = ("response", "best_first", "chosen", "rejected", "chat")
INDEX = re.compile(r"|Unnamed: \d+|index|__index_level_\d+__")


@dataclass
class Proposal:
    """The proposed meanings of a file's columns.

    `reviewer` is the reviewer's name to use if no column contains it. `questions` maps a column or
    meaning to a question that only the user can answer.
    """

    mapping: Mapping
    reviewer: str
    questions: dict[str, str] = field(default_factory=dict)

    def with_answers(self, answer: Mapping) -> "Proposal":
        """Return the proposal with the user's mapping applied and the answered questions removed."""
        names = {column for row in answer.columns.values() for column in row}
        unanswered = {
            about: text
            for about, text in self.questions.items()
            if about not in answer.columns and not any(fits(about, name) for name in names)
        }
        return Proposal(answer.applied_to(self.mapping), self.reviewer, unanswered)


def propose(rows: Sequence[dict[str, Any]]) -> Proposal:
    """Return the proposed meanings of the columns in these first rows, with questions for the user."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    guess = _Guess(names, rows)
    if not guess.prompts() and not guess.whole_chats():
        guess.questions["prompt"] = (
            f"No column looks like a prompt; the columns are {', '.join(map(repr, names))}. Choose "
            "the column of the prompt."
        )
    guess.responses()
    guess.judgments()
    guess.rest()
    return Proposal(Mapping(guess.columns), guess.reviewer, guess.questions)


class _Guess:
    def __init__(self, names: Sequence[str], rows: Sequence[dict[str, Any]]):
        self.rows = rows
        self.left = {normal(name).lower(): normal(name) for name in names}
        self.columns: dict[str, tuple[str, ...]] = {}
        self.questions: dict[str, str] = {}
        self.reviewer = "import"

    # --- finding columns ---

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first of these names whose column has a value in at least one row."""
        return next(
            (self.left[name] for name in names if name in self.left and self._used(name)), None
        )

    def matching(self, pattern: re.Pattern[str]) -> list[str]:
        names = [name for key, name in self.left.items() if pattern.fullmatch(key)]
        return sorted(names, key=natural)

    def take(self, meaning: str, *names: str | None) -> None:
        for name in names:
            if name is not None and self.left.pop(name.lower(), None) is not None:
                self.columns[meaning] = (*self.columns.get(meaning, ()), name)

    def values(self, name: str) -> list[Any]:
        cells = [row[key] for row in self.rows for key in row if normal(key) == name]
        return [value for value in cells if value not in (None, "", [])]

    def _used(self, key: str) -> bool:
        return bool(self.values(self.left[key]))

    def _chats(self, name: str) -> bool:
        return any(
            values.is_chat(values.structure({"_": value}, "_")) for value in self.values(name)
        )

    def _lists(self, name: str) -> bool:
        parsed = [values.structure({"_": value}, "_") for value in self.values(name)]
        return any(isinstance(value, list) and not values.is_chat(value) for value in parsed)

    # --- meanings ---

    def prompts(self) -> bool:
        self.take("system", self.first(SYSTEM))
        self.take("history", self.first(HISTORY))
        chat, prompt = self.first(CHAT), self.first(PROMPT)
        if chat and self._chats(chat) and not (prompt and self._pair()):
            self.take("chat" if self._answered(chat) and not self._pair() else "prompt", chat)
        elif prompt:
            self.take("prompt", prompt)
            more = (name for name in MORE_PROMPT.get(prompt.lower(), ()) if name in self.left)
            self.take("prompt", *(self.left[name] for name in more))
        return bool({"prompt", "chat"} & self.columns.keys()) or self._pair() is not None

    def whole_chats(self) -> bool:
        """Return whether columns such as conversation_a contain whole chats, including the prompt."""
        return any(self._chats(name) for name in self.matching(NUMBERED))

    def _answered(self, name: str) -> bool:
        """Return whether a chat in this column ends with the assistant's answer."""
        for value in self.values(name):
            chat: Any = values.structure({"_": value}, "_")
            chat = chat.get("messages") if isinstance(chat, dict) else chat
            if values.is_chat(chat):
                last = str(chat[-1].get("role") or chat[-1].get("from")).lower()
                if last in ("assistant", "gpt", "bot", "model", "chatgpt"):
                    return True
        return False

    def _pair(self) -> tuple[str, str] | None:
        return next(
            ((self.left[a], self.left[b]) for a, b in PAIRS if a in self.left and b in self.left),
            None,
        )

    def responses(self) -> None:
        if pair := self._pair():
            self.take("chosen", pair[0])
            self.take("rejected", pair[1])
            self.reviewer = "trl"
            self._ask_for_prompt(pair)
            return
        for name in ONE:
            if (column := self.first([name])) and self._lists(column):
                self.questions[column] = (
                    f'"{column}" contains lists of responses. Use best_first={column} if they are in '
                    f"order, the best first, or response={column} if they are not."
                )
        self.take("response", *(self.first([name]) for name in (*ONE, *SEVERAL)))
        self.take("response", *self.matching(NUMBERED))

    def _ask_for_prompt(self, pair: tuple[str, str]) -> None:
        if {"prompt", "chat"} & self.columns.keys():
            return
        if any(self._chats(name) for name in pair):
            return  # the common beginning of the chats is the prompt
        self.questions["prompt"] = (
            f'No column contains the prompt of "{pair[0]}" and "{pair[1]}", which are texts. Choose the '
            "column of the prompt. The common beginning of two texts is not used as the prompt: "
            "that could cut words from the answers."
        )

    def judgments(self) -> None:
        if "chosen" in self.columns:
            self.take(
                "unused" if self._repeats("messages") else "metadata", self.left.get("messages")
            )
            return
        if "response" not in self.columns and "chat" not in self.columns:
            return
        label = self.first(LABEL)
        if label and all(_truth(value) for value in self.values(label)):
            self.take("label", label)
            self.reviewer = "trl"
        self.take("preference", self.first(PREFERENCE))
        if "preference" not in self.columns:
            self.take("winner", self.first(WINNER))
        if "winner" not in self.columns:
            self.take("winner", *self.matching(ONE_HOT))
        ranks, scores = self.matching(RANK), self.matching(SCORE)
        if all(name in self.left for name in HELPSTEER[:2]):
            self.take("score", self.left["helpfulness"])
            self.take("rating", *(self.left.get(name) for name in HELPSTEER))
            self.columns["rating"] = ("helpfulness", *self.columns.get("rating", ()))
            self.reviewer = "helpsteer"
        elif not {"preference", "winner", "label"} & self.columns.keys():
            self.take("rank", *ranks)
            if "rank" not in self.columns:
                self.take("score", *scores)

    def _repeats(self, name: str) -> bool:
        return name in self.left and all(
            row.get(name) == row.get(self.columns["chosen"][0]) for row in self.rows
        )

    def ids(self) -> None:
        """Find the columns with the ids of prompts, tasks and responses."""
        self.take("id", self.first(ID))
        self.take("task_id", self.first(TASK_ID))
        answers = [c for m in ANSWERS for c in self.columns.get(m, ())]
        for name in self.matching(RESPONSE_ID):
            owned = any(belongs(name, column) for column in answers)
            if owned or len(answers) == 1:
                self.take("response_id", name)
        if "id" not in self.left:
            return
        if len(answers) == 1 and not self._lists(answers[0]) and "response_id" not in self.columns:
            self.take("response_id", self.left["id"])
        elif "task_id" not in self.columns:
            self.take("task_id", self.left["id"])

    def rest(self) -> None:
        self.take("model", *self.matching(MODEL))
        self.ids()
        if JUDGMENTS & self.columns.keys():
            self.take("reviewer", self.first(REVIEWER))
            self.take("rationale", self.first(RATIONALE))
        judged = bool(JUDGMENTS & self.columns.keys())
        for name in list(self.left.values()):
            if INDEX.fullmatch(name):
                self.take("unused", name)
            elif judged and SECOND.fullmatch(name):
                self.take("metadata", name)
            elif LOOKS_LIKE_PREFERENCE.search(name):
                example = next(iter(self.values(name)), None)
                self.questions[name] = (
                    f'"{name}" looks like a preference (for example {str(example)[:60]!r}), but '
                    f"its meaning is unclear. Choose a meaning, for example winner={name}, "
                    f"score={name}, or metadata={name} to keep it without using it."
                )
                self.take("metadata", name)
            else:
                self.take("metadata", name)


def _truth(value: Any) -> bool:
    return str(value).strip().lower() in {"true", "false", "1", "0", "1.0", "0.0"}
