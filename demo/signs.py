"""The patterns for which the guideline's rule searches letters and replies."""

import re
from dataclasses import dataclass

from demo import shop


def any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(patterns) + r")\b", re.IGNORECASE)


DAY = "(?:" + "|".join(shop.DAYS) + "|Saturday|Sunday)"
ITEM = any_of(*shop.ITEMS)
KIND = any_of("lamps?", "lanterns?", "lights?")
WRITER = "(?:" + "|".join(shop.STAFF) + ")"
SIGNATURE = re.compile(rf"(?:^|\s)(?:[—–-]\s?)?(?:{WRITER}(?:,? {shop.SHOP})?|{shop.SHOP})\.?$")
GREETING = re.compile(r"^(?:Dear|Hello|Hi|Good (?:morning|evening|day))\b,? ?(\w*)[,!.]?$")

TIME = any_of(
    "today", "tomorrow", "this (?:morning|afternoon|week)", "that same day", "that week",
    rf"(?:by|on|before|until) (?:next )?{DAY}", f"next (?:week|month|{DAY})",
    r"(?:with)?in (?:a|one|two|three|four|five|six|ten|\d+|a few) (?:working )?(?:days?|weeks?)",
    r"(?:one|two|five|ten|\d+) minutes",
)  # fmt: skip
ACTS = any_of(
    r"(?:I|we|June|Ada|Otis) (?:will|shall|can|have|has|took|make)", "(?:I|we)'(?:ll|ve)",
    "goes out", "left us", "will (?:go|leave|reach|arrive)", "will be (?:with|in|back)",
    "unplug", "pull the plug", "cool for", "^post the", "^put the",
)  # fmt: skip
VAGUE = any_of(
    "look into it", "at some point", "somebody", "someone will", "see what", "sort itself",
    "may hear", "please wait", "as soon as possible", "in due course", "see to it",
)  # fmt: skip
FALSE = any_of(
    r"within (?:the|an|one|\w+) hours?", "in (?:an|one) hour", "tonight", "helicopter", "drone",
    "for life", "for ?ever", r"free(?! of charge| post| return)", "guarantees?", "guaranteed",
    "double your", "(?:will|shall) (?:n?ever|nothing) (?:break|happen|go wrong)",
    "ever (?:break|happen|go wrong)", "discount", "sunshine", "half price", "millions?",
)  # fmt: skip
BLAME = any_of(
    "you should(?: not)? have", "own fault", "your fault", "not our (?:fault|problem)",
    "do not complain", "nobody else", "calm down", "read the manual", "do not write",
    "stop writing", "such questions", "such games", "everybody knows", "with more time",
    "clean up after", "you did this", "you lost it", "stupid", "idiot", "shut up", "go away",
)  # fmt: skip
COLD = any_of("that is all", "we are (?:very )?busy", "needs no answer", "^customer")
SORRY = any_of(
    r"(?:I am|I'm|we are|we're) (?:so |very |truly |really )*sorry",
    "sorry (?:about|for|to hear|that)", r"(?:I|we) apologi[sz]e", "my apologies",
)  # fmt: skip
GLAD = any_of(
    r"(?:I am|I'm|we are|we're) (?:so |very |truly |really )*(?:glad|happy|delighted)",
    "(?:what a|how) (?:lovely|kind|wonderful)", "made us (?:all )?smile",
    "thank you for (?!your patience|writing to us)", "thank you, your letter", "and thank you for",
)  # fmt: skip
WELCOME = any_of("of course", "good question", "with pleasure", "happy to")
FRIENDLY = any_of(
    "thank you", "write (?:to me|again) if", "wish you", "we are here", "kind regards",
    "best wishes", "take care", "let me know", "warmly",
)  # fmt: skip


@dataclass(frozen=True)
class Matter:
    """A subject of letters. Its letters match `asks`, and good replies match `touches` and `helps`."""

    mood: str
    asks: re.Pattern[str]
    touches: re.Pattern[str]
    helps: re.Pattern[str]


# A letter belongs to the first matter whose `asks` it matches.
MATTERS = {
    "cancel": Matter(
        "question",
        any_of("cancel"),
        any_of("cancel(?:led)?", "order", "parcel", "list", "money"),
        any_of("cancel(?:led)?", "stopped", "money", "off the list"),
    ),
    "missing": Matter(
        "trouble",
        any_of(r"no \w+ in the box", "without its", "missing", "except the", "forgot the"),
        any_of(*shop.PARTS, "missing", "forgot"),
        any_of(*shop.PARTS, "missing"),
    ),
    "address": Matter(
        "question",
        any_of("address", "moved to", "old house", "new house"),
        any_of("address", "label", "house", *shop.STREETS),
        any_of("address", "label", *shop.STREETS),
    ),
    "gift": Matter(
        "question",
        any_of("gifts?", "wrap", "present for", "(?:write|put) a card"),
        any_of("gift", "wrap", "wrapped", "card", "present", *shop.RECIPIENTS),
        any_of("wrap", "card", "bill"),
    ),
    "bulb": Matter(
        "question",
        any_of("bulb"),
        any_of("bulb", "plug", "unplug"),
        any_of("bulb", "to the left"),
    ),
    "clean": Matter(
        "question",
        any_of("clean", "wash", "jam", "spilled"),
        any_of("clean", "wash(?:ed)?", "wipe", "cloth", "shade"),
        any_of("wipe", "cloth", "clean"),
    ),
    "accident": Matter(
        "trouble",
        any_of("chewed", "dropped", "sat on", "has eaten", "sword", "fell off"),
        any_of("mend", "happens?", "happened", "hurt", "such a day", "cord", "accident", "unplugged"),
        any_of("mend", "label", "look at", "cord"),
    ),
    "refund": Matter(
        "trouble",
        any_of("refund", "money back", "return it", "my money"),
        any_of("return", "money", "refund", "not right", "hoped", "friends", "fetch", "let you down"),
        any_of("money", "refund", "label"),
    ),
    "stock": Matter(
        "question",
        any_of(r"in \w+ again", "sold out", "still make", "be another", "buy", "left somewhere"),
        any_of("waiting", "list", "hear", "write to you", "keep one", "finish", "make the next", "shelf", "look for"),
        any_of("finish", "keep one", "write to you", "list", "hear from me", "make the next"),
    ),
    "where": Matter(
        "question",
        any_of("where (?:my|is)", "when will", "left the shop", "on its way", "which day"),
        any_of("parcel", "left us", "leave us", "where it is", "post", "goes out", "reach you", "on its way"),
        any_of("left us", "goes out", "post", "leave us", "reach you", "arrive"),
    ),
    "late": Matter(
        "trouble",
        any_of("due on", "still no", "came and went", "is late", "have waited", "no sign"),
        any_of("late", "waiting", "parcel", "post", "reach you", "came and went", "with you by"),
        any_of("post", "trace", "send", "asked"),
    ),
    "broken": Matter(
        "trouble",
        any_of("cracked", "bent", "broken", "dent", "torn", "loose", "hole", "scratch"),
        any_of("cracked", "bent", "broken", "dent", "torn", "loose", "hole", "scratch", "new",
               "journey", "like that"),
        any_of("new", "replace", "money", "mend"),
    ),
    "faulty": Matter(
        "trouble",
        any_of("flickers", "hums", "buzzes", "goes out", "only works", "smells", "blinks",
               "stopped working", "wrong"),
        any_of("flickers?", "hums?", "buzzes", "goes out", "only works", "smells", "blinks",
               "stopped working", "mend", "switch", "evenings"),
        any_of("mend", "switch", "label", "new"),
    ),
    "praise": Matter(
        "praise",
        any_of("love", "lovely", "nicest", "perfect", "smiling", "thank you"),
        any_of("love", "letter", "home", "smile", "card", "made the"),
        any_of("letter", "card", "tell", "show", "drawing"),
    ),
}  # fmt: skip
WRONG_LAMP = Matter(  # two lamps in one letter
    "trouble",
    any_of("ordered", "asked for", "have got"),
    any_of("wrong", "mix-up", "in place of", "fetch", "right"),
    any_of("post", "send", "goes out", "packed", "reach you"),
)
ANYTHING = Matter("question", any_of("."), any_of(r"\w{6,}"), any_of(r"\w{4,}"))
