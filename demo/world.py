"""Letters to Moth & Daughter and replies to them, generated from a seed.

A seed gives the same texts on every machine, because only `random.Random` is used. One eighth of the
letters, selected by their hash, is reserved for ranking and evaluation. The tiny model was trained on
the other letters, so it has never seen a letter of the demo project.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from demo import shop
from demo.phrases import (
    ASIDES,
    CLOSES,
    COLD_CLOSES,
    FALSE,
    FLAT,
    OPENINGS,
    PLAIN,
    RAMBLES,
    REPEATS,
    SHOUTS,
    UNTIMED,
    VAGUE,
)
from demo.situations import BY_KEY, SITUATIONS, Situation

RESERVED_EIGHTH = 3


@dataclass(frozen=True)
class Letter:
    situation: str
    facts: dict[str, str] = field(repr=False)
    messages: list[dict[str, str]]

    @property
    def reserved(self) -> bool:
        text = "\n".join(message["content"] for message in self.messages)
        return zlib.crc32(text.encode()) % 8 == RESERVED_EIGHTH


def prompts(count: int, seed: int, round: int = 1) -> list[Letter]:
    """Return `count` different reserved letters, in which all situations are about equally frequent.

    Each round has other letters. A few may be the same in two rounds.
    """
    rng = random.Random(f"prompts {seed}" if round == 1 else f"prompts {seed} round {round}")
    by_text: dict[str, Letter] = {}
    while len(by_text) < count:
        letter = write_letter(rng, SITUATIONS[len(by_text) % len(SITUATIONS)])
        if letter.reserved:
            by_text.setdefault(letter.messages[-1]["content"], letter)
    letters = list(by_text.values())
    rng.shuffle(letters)
    return letters


def texts(count: int, seed: int) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Yield `count` chats for training, with replies of mixed quality and without reserved letters."""
    rng = random.Random(f"texts {seed}")
    while count:
        letter = write_letter(rng, rng.choice(SITUATIONS))
        if letter.reserved:
            continue
        count -= 1
        yield {
            "messages": [
                *letter.messages,
                {"role": "assistant", "content": write_reply(rng, letter)},
            ]
        }


def write_letter(rng: random.Random, situation: Situation) -> Letter:
    facts = _facts(rng)
    sentences = [rng.choice(situation.letters)]
    if rng.random() < 0.6:
        sentences.append(rng.choice(ASIDES.get(situation.key) or ASIDES[situation.mood]))
    paragraphs = [" ".join(sentences)]
    if rng.random() < 0.35:
        paragraphs.insert(0, rng.choice(OPENINGS))
    messages = [{"role": "user", "content": _signed(paragraphs, facts)}]
    if situation.mood != "praise" and rng.random() < 0.08:
        answer = f"{rng.choice(FLAT)} {rng.choice(VAGUE)}"
        messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": _signed([rng.choice(REPEATS)], facts)})
    return Letter(situation.key, facts, messages)


def write_reply(rng: random.Random, letter: Letter) -> str:
    """Return a reply whose quality is between excellent and unacceptable.

    Its parts are drawn independently of each other, with probabilities that depend on a common level of
    care.
    """
    care = rng.random()
    facts = letter.facts | {"soon": rng.choice(shop.DAYS), "month": rng.choice(shop.MONTHS)}
    body = _body(rng, BY_KEY[letter.situation], care)
    paragraphs = [" ".join(body)]
    greeting = rng.random()
    if greeting < 0.3 + 0.4 * care:
        named = facts["name"] and rng.random() < 0.8
        paragraphs.insert(0, rng.choice(("Dear {name},", "Hello {name},")) if named else "Hello,")
    elif greeting > 0.97:
        paragraphs.insert(0, "Customer,")
    text = "\n\n".join(paragraphs).format_map(facts)
    if rng.random() < 0.03:
        return " ".join(text.split(" ")[: -rng.randint(2, 5)]) or text
    if rng.random() < 0.25 + 0.5 * care:
        writer = rng.choice(shop.STAFF)
        text += f"\n\n{writer}, {shop.SHOP}" if rng.random() < 0.6 else f"\n\n{writer}"
    return text


def _body(rng: random.Random, situation: Situation, care: float) -> list[str]:
    mood = situation.mood

    def happens(careless: float, careful: float) -> bool:
        return rng.random() < careless + (careful - careless) * care

    sentences = []
    if happens(0.15, 0.7):
        sentences.append(rng.choice(situation.hears))
    elif rng.random() < 0.8:
        sentences.append(rng.choice(rng.choice((PLAIN[mood], FLAT))))
    if happens(0.2, 0.0):
        sentences.append(rng.choice(situation.blames))
    if happens(0.1, 0.0):
        sentences.append(rng.choice(SHOUTS))
    if happens(0.15, 0.7):
        sentences.append(rng.choice(situation.steps))
        if rng.random() < 0.4:
            sentences.append(rng.choice(situation.extras))
    else:
        sentences.append(rng.choice(rng.choice((UNTIMED[mood], VAGUE))))
    if happens(0.2, 0.04):
        sentences.append(rng.choice(FALSE))
    if happens(0.25, 0.1):
        sentences.extend(rng.sample(RAMBLES, rng.randint(2, 4)))
    if rng.random() < 0.04:
        sentences.append(rng.choice(sentences))
    if happens(0.15, 0.65):
        sentences.append(rng.choice(CLOSES))
    elif happens(0.3, 0.0):
        sentences.append(rng.choice(COLD_CLOSES))
    return sentences


def _facts(rng: random.Random) -> dict[str, str]:
    item, other = rng.sample(shop.ITEMS, 2)
    day, soon = rng.sample(shop.DAYS, 2)
    colour = rng.choice(shop.COLOURS)
    full = f"{colour} {item}" if rng.random() < 0.5 else item
    fault = rng.choice(shop.FAULTS)
    return {
        "item": item,
        "a_item": shop.a(item),
        "full": full,
        "a_full": shop.a(full),
        "other": other,
        "a_other": shop.a(other),
        "colour": colour,
        "day": day,
        "soon": soon,
        "month": rng.choice(shop.MONTHS),
        "part": rng.choice(shop.PARTS),
        "damage": rng.choice(shop.DAMAGES),
        "fault": fault,
        "fault_you": fault.replace("I am", "you are").replace("my", "your"),
        "street": rng.choice(shop.STREETS),
        "recipient": rng.choice(shop.RECIPIENTS),
        "name": rng.choice(shop.NAMES) if rng.random() < 0.75 else "",
    }


def _signed(paragraphs: list[str], facts: dict[str, str]) -> str:
    signature = [facts["name"]] if facts["name"] else []
    return "\n\n".join([*paragraphs, *signature]).format_map(facts)
