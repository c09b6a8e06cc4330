"""A score for replies that follows `guideline.md` and is computed only from the text.

This rule is the ground truth of the demo project. The reward model never sees it, so the demo's
evaluation does not depend on the reward model. The rule accepts any text. It looks for signs of quality
in each sentence, so that a list of good words has a score of 0.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from demo import phrases, shop, signs, situations

Messages = Sequence[Mapping[str, str]]
GUIDELINE = Path(__file__).with_name("guideline.md")
LINE = 3.0  # replies with a lower score are unacceptable
RATING_LOW, RATING_HIGH = 1, 5  # the reviewers' scale for each criterion


@dataclass(frozen=True)
class Criterion:
    key: str
    name: str
    meaning: str
    points: float  # out of 10; negative points are subtracted if the criterion is not met


CRITERIA = (
    Criterion("hears", "Hears the customer", "Shows that the letter was understood.", 2.5),
    Criterion("point", "To the point", "Is about the right lamp and question only.", 2.5),
    Criterion("step", "Next step", "Says who does what, and by when.", 3.5),
    Criterion("ends", "Ends well", "Ends with a friendly sentence and a name.", 1.5),
    Criterion("honesty", "Honesty", "Promises only what the shop can keep.", -7.5),
    Criterion("tone", "Tone", "Never blames, scolds or shouts.", -7.5),
    Criterion("reads", "Reads well", "Has 15 to 60 words and does not repeat itself.", 0.0),
)


@dataclass(frozen=True)
class Letter:
    text: str
    items: frozenset[str]
    matter: signs.Matter

    @classmethod
    def of(cls, text: str) -> "Letter":
        items = frozenset(item.lower() for item in signs.ITEM.findall(text))
        return cls(text, items, _matter(text, items))


@dataclass(frozen=True)
class Reply:
    greeting: str
    sentences: tuple[str, ...]
    signed: bool
    whole: bool  # the last sentence is complete
    words: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Reply":
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        greeting = ""
        short = bool(lines) and len(lines[0].split()) <= 4
        if short and (lines[0][-1] == "," or signs.GREETING.match(lines[0])):
            greeting = lines.pop(0)
        body = "\n".join(lines)
        signature = signs.SIGNATURE.search(body)
        if signature:
            body = body[: signature.start()].rstrip()
        sentences = tuple(s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", body) if s.strip())
        whole = bool(sentences) and sentences[-1][-1] in ".!?"
        return cls(greeting, sentences, bool(signature), whole, tuple(_words(text)))


def score(messages: Messages, response: str) -> float:
    """Return the quality of a reply, from 0 (not a reply) to 10. The same text has the same score."""
    return total(explain(messages, response))


def total(marks: Mapping[str, float]) -> float:
    """Return the score for the marks that `explain` returned."""
    points = sum(c.points * marks[c.key] for c in CRITERIA if c.points > 0)
    points += sum(c.points * (1 - marks[c.key]) for c in CRITERIA if c.points < 0)
    if points < LINE:  # compress low scores, so that they stay distinct and above 0
        points = LINE * math.exp((points - LINE) / LINE)
    return points * marks["reads"]


def acceptable(messages: Messages, response: str) -> bool:
    return score(messages, response) >= LINE


def explain(messages: Messages, response: str) -> dict[str, float]:
    """Return a mark from 0 to 1 for each criterion, keyed by the criterion's key."""
    letter = "\n".join(m["content"] for m in messages if m["role"] == "user")
    return dict(_marks(letter, response))


@lru_cache(maxsize=10_000)  # all reviewers read the same replies
def _marks(letter_text: str, response: str) -> dict[str, float]:
    letter, reply = Letter.of(letter_text), Reply.of(response)
    return {
        "hears": _hears(letter, reply),
        "point": _point(letter, reply),
        "step": _step(letter, reply),
        "ends": _ends(reply),
        "honesty": 0.0 if any(map(signs.FALSE.search, reply.sentences)) else 1.0,
        "tone": _tone(reply),
        "reads": _reads(reply),
    }


def _matter(text: str, items: frozenset[str]) -> signs.Matter:
    if len(items) > 1 and signs.WRONG_LAMP.asks.search(text):
        return signs.WRONG_LAMP
    return next((m for m in signs.MATTERS.values() if m.asks.search(text)), signs.ANYTHING)


def _hears(letter: Letter, reply: Reply) -> float:
    empathic = [s for s in reply.sentences if _is_empathic(letter.matter.mood, s)]
    if not empathic:
        return 0.0
    specific = any(_is_specific(letter, sentence) for sentence in empathic)
    mark = 1.0 if specific else 0.5
    return mark if len(empathic) <= 3 else mark / 2  # many apologies are worth less


def _is_empathic(mood: str, sentence: str) -> bool:
    if mood == "trouble":
        return bool(signs.SORRY.search(sentence))
    if signs.GLAD.search(sentence) or (mood == "question" and signs.WELCOME.search(sentence)):
        return not signs.SORRY.search(sentence)
    return False


def _is_specific(letter: Letter, sentence: str) -> bool:
    return bool(_items(sentence) & letter.items or letter.matter.touches.search(sentence))


def _point(letter: Letter, reply: Reply) -> float:
    text = " ".join(reply.sentences)
    named = _items(text)
    mark = 0.6 if named & letter.items else 0.25 if signs.KIND.search(text) else 0.0
    if letter.matter.touches.search(text):
        mark += 0.4
    mark -= 0.4 * len(named - letter.items) + 0.4 * _wrong_name(letter, reply)
    irrelevant = sum(not _is_relevant(letter, sentence) for sentence in reply.sentences)
    return min(1.0, max(0.0, mark - 0.2 * max(0, irrelevant - 1)))


def _wrong_name(letter: Letter, reply: Reply) -> bool:
    match = signs.GREETING.match(reply.greeting)
    name = match.group(1) if match else ""
    return bool(name) and name not in letter.text


def _is_relevant(letter: Letter, sentence: str) -> bool:
    if signs.VAGUE.search(sentence):
        return False
    return bool(
        _is_specific(letter, sentence)
        or _is_empathic(letter.matter.mood, sentence)
        or signs.ACTS.search(sentence)
        or signs.FRIENDLY.search(sentence)
    )


def _step(letter: Letter, reply: Reply) -> float:
    marks = [_step_of(letter, sentence) for sentence in reply.sentences]
    clear = sum(mark == 1.0 for mark in marks)
    return max(marks, default=0.0) * (1.0 if clear <= 2 else 0.5)  # three steps are confusing


def _step_of(letter: Letter, sentence: str) -> float:
    if signs.VAGUE.search(sentence) or signs.FALSE.search(sentence):
        return 0.1
    if not signs.ACTS.search(sentence) or len(sentence.split()) > 35:
        return 0.0
    helps = bool(letter.matter.helps.search(sentence))
    if not helps:
        return 0.3
    return 1.0 if signs.TIME.search(sentence) else 0.6


def _ends(reply: Reply) -> float:
    if not reply.whole or signs.BLAME.search(reply.sentences[-1]):
        return 0.0
    if signs.COLD.search(reply.sentences[-1]):
        return 0.0
    friendly = bool(signs.FRIENDLY.search(reply.sentences[-1]))
    return 0.1 + 0.5 * friendly + 0.4 * reply.signed


def _tone(reply: Reply) -> float:
    sentences = (reply.greeting, *reply.sentences)
    if any(map(signs.BLAME.search, sentences)) or any(map(_shouts, sentences)):
        return 0.0
    return 0.7 if any(map(signs.COLD.search, sentences)) else 1.0


def _shouts(sentence: str) -> bool:
    letters = [c for c in sentence if c.isalpha()]
    capitals = sum(c.isupper() for c in letters)
    return "!!" in sentence or (len(letters) > 6 and capitals > 0.6 * len(letters))


def _reads(reply: Reply) -> float:
    mark = _length(len(reply.words)) * (1.0 if reply.whole else 0.4)
    repeated = sum(n - 1 for n in Counter(s.lower() for s in reply.sentences).values())
    doubled = sum(a == b for a, b in zip(reply.words, reply.words[1:], strict=False))
    return mark * 0.5**repeated * 0.7**doubled * _variety(reply.words) * _spelling(reply.words)


def _length(words: int) -> float:
    if words < 15:
        return 0.0 if words < 4 else 0.5 + 0.5 * (words - 4) / 11
    return 1.0 if words <= 60 else max(0.1, 1.0 - (words - 60) / 50)


def _variety(words: Sequence[str]) -> float:
    """Return a factor from 0.1 to 1, lower the more trigrams are repeated."""
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    share = len(set(trigrams)) / len(trigrams) if trigrams else 1.0
    return min(1.0, max(0.1, (share - 0.5) / 0.35))


def _spelling(words: Sequence[str]) -> float:
    """Return a factor from 0.1 to 1, below 1 if more than a quarter of the words are unknown."""
    unknown = sum(word not in _lexicon() for word in words) / max(1, len(words))
    return 1.0 if unknown <= 0.25 else max(0.1, 1.0 - 2 * (unknown - 0.25))


@cache
def _lexicon() -> frozenset[str]:
    sources = [GUIDELINE.read_text()]
    for module in (phrases, situations, shop):
        sources += [repr(value) for name, value in vars(module).items() if name.isupper()]
    return frozenset(word for source in sources for word in _words(source))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def _items(text: str) -> set[str]:
    return {item.lower() for item in signs.ITEM.findall(text)}
