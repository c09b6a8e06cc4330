"""Find the letters in a rationale that refer to responses.

A letter is translated only if it can mean nothing but a response. "A" may be an article, "I" a pronoun,
"C" a language or a vitamin, and a quotation may contain letters that the model used. If one letter in a
text is ambiguous, the whole text is left as written, because a reader could not see which letters were
translated.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

LETTERS = "ABCDEFGHI"
WINDOW = 80
"""Number of characters on each side of a letter that the rules may look at."""


class Kind(Enum):
    RESPONSE = "refers to a response"
    EXPLICIT = "refers to a response explicitly: “response C”, “A > C”"
    OTHER = "something else: “plan B”, “C++”, the article “A”"
    DOUBT = "could be either"


@dataclass(frozen=True)
class Reading:
    """The positions of the letters that refer to responses (`spans`).

    `doubt` is whether the text is ambiguous; `spans` is then empty.
    """

    spans: tuple[int, ...] = ()
    doubt: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NOUNS = _words(
    "response responses answer answers reply replies completion completions output outputs "
    "candidate candidates antwort antworten ausgabe ausgaben antworttext"
)
NOT_AFTER = _words(
    "plan plans vitamin vitamins vitamine hepatitis grade grades appendix section exhibit schedule "
    "figure table anhang abschnitt abbildung tabelle note stufe influenza blutgruppe"
)
DOUBT_AFTER = _words(
    "option options choice choices version versions variant variants variante varianten model "
    "models modell modelle type types typ class klasse part parts teil point points punkt group "
    "groups gruppe team step schritt level side seite case fall item category kategorie letter "
    "buchstabe line row column drive key variable set point a an ein eine einen einem straight "
    "written programmed implemented coded compiled language sprache mr mrs ms dr"
)
DOUBT_BEFORE = _words(
    "code language programming program programs compiler compilers programmer header syntax "
    "library major minor flat sharp movie cell cells section suite coli string strings level grade "
    "student students dur moll"
)
STARTERS = _words(
    "after again all also although and as at because before besides between both but by clearly "
    "compared comparing despite even finally first for from generally here hence however if in "
    "indeed instead just like likewise maybe mostly neither nor not nothing obviously of on only "
    "or overall perhaps personally prefer preferred ranked rated rather second since similarly so "
    "still that then therefore third though thus to too unlike until unless what when where "
    "whereas whether which while who why with without yes no yet put chose picked best worst "
    "aber alle allein also auch bei beide beides besser da dadurch daher damit dann darum dass "
    "dennoch denn deshalb doch eher eindeutig erst ferner für hier hingegen im in ja jedoch klar "
    "leider mit nach nein nicht nur ob obwohl oder ohne schlechter sehr sogar sowohl statt "
    "trotzdem und vor während warum weder weil wenn wie wo zudem zuerst zwar"
)
VERBS = _words(
    "is was has had does did can could will would should may might must isn't wasn't hasn't "
    "doesn't didn't can't couldn't won't wouldn't shouldn't and or but because than then over "
    "also always never only clearly simply barely nearly almost not just wins won gave went said "
    "did too again comes came ist war hat hatte kann wird gibt sagt und oder aber weil als"
)
"""Words that make an "A" before them, at the start of a sentence, the subject: "A was better"."""

IN_LANGUAGE = re.compile(
    r"\b(?:written|program\w*|coded?|coding|implement\w*|compil\w*|geschrieben)\s+(?:\w+\s+)?in\s+$"
)
TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|Frau|Herrn?)\.?\s+$")

NO_VERBS = _words("series news plus species lens basis means")
ADJECTIVES = _words(
    "good better bad great clear clearer short shorter long longer bit lot few little couple number "
    "more less very really quite rather slightly much nice poor weak strong solid decent detailed "
    "concise complete correct wrong safe safer simple real new big small large single typical "
    "helpful polite direct honest perfect friendly full proper"
)
ARTICLE_NOUNS = _words(
    "response reply completion candidate result reader customer person user model mistake problem "
    "fact list table summary sentence question point reason lot bit few couple number little way "
    "choice tie draw human lawyer doctor child teacher reviewer friend"
)
PRONOUN_VERBS = _words(
    "think thought prefer preferred like liked love find found believe would am do don't did "
    "didn't chose choose pick picked rank ranked put place placed feel felt know knew guess see saw "
    "can't cannot can could couldn't wish want wanted expect expected trust agree disagree wonder "
    "need hate dislike doubt rate rated consider considered read went"
)
GERMAN = re.compile(
    r"[äöüß]|\b(?:ist|und|nicht|weil|das|der|dem|eine|einen|aber|sehr|auch|besser|als|sind|hat|wird)\b"
)
ENGLISH = re.compile(r"\b(?:the|is|and|of|to|because|it|than|are)\b")

APART = r"(?<![0-9A-Za-zÀ-ɏ])[A-I](?![0-9A-Za-zÀ-ɏ])"
"""Also matches a letter next to Chinese or Arabic text, which the rules then call ambiguous."""

LOOKALIKE = re.compile(r"(?<!\w)[АВСЕНΑΒΕΗ\uff21-\uff29](?!\w)")
"""Cyrillic, Greek and full-width letters that look like A to I."""

CANDIDATE = re.compile(APART)
LINK = re.compile(r"(?:https?://|www\.)\S+")
QUOTED = re.compile(
    r"```[\s\S]*?```|`[^`\n]+`|\"[^\"\n]{2,}\"|“[^”\n]{2,}[”“]|„[^“”\n]{2,}[“”]|«[^»\n]{2,}»|^>\s.*$",
    re.M,
)
LOWER = re.compile(r"(?<![\w'’.\-/&+#@\\])[b-i](?![\w'’+#\-/&\\]|\.\w)")
LOWER_A = re.compile(
    r"(?<![\w'’.-])a(?=\s*(?:[<>=≥≤≻≈)]|[/,]\s*[b-i]\b|$|[.!?;:,](?:\s|$))"
    r"|\s+(?:and|or|vs\.?|und|oder)\s+[b-i]\b)"
)
ABBREVIATED = re.compile(r"\b(?:e\.\s?g|i\.\s?e|z\.\s?b|d\.\s?h|a\.\s?k\.\s?a|c\.\s?f)\b\.?", re.I)
CLUSTER = re.compile(r"(?<!\w)[A-I]{2,9}(?!\w)")
_NOUN = "|".join(sorted(NOUNS))
BY_PLACE = re.compile(
    r"\b(?:first|second|third|fourth|fifth|last|1st|2nd|3rd|4th|5th"
    rf"|(?:erst|zweit|dritt|viert|fünft|letzt)\w*)\s+(?:{_NOUN}|one)\b"
    rf"|\b(?:{_NOUN})\s*#?\d\b",
    re.I,
)
"""Matches phrases like “the first response”, which depend on the order that the author saw."""

OPTION = re.compile(r"^[\s>*-]*\(?([A-I])[).:]\s|\(([A-I])\)|\b(?:option|choice) ([A-I])\b", re.M)
OPERATOR = r"\s*(?:[<>=≥≤≻≺≈~→]|->)+\s*"
SENTENCE_START = re.compile(r"(?:^|[.!?:;…\n]|(?:^|\n)\s*[-*•])[\s\"“„(\[*_]*$")
JOINED = r"\s*(?:,|/|&|and|or|und|oder)\s*"
WRAPPERS = (("**", "**"), ("*", "*"), ('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("‘", "’"))


def own_letters(prompt: str, responses: Iterable[str] = ()) -> frozenset[str]:
    """Return the letters that mean something else in this task, such as quiz options or a vitamin."""
    used = {
        match[0]
        for match in CANDIDATE.finditer(prompt)
        if match[0] not in "AI" or not re.match(r"\s+[a-z]", prompt[match.end() :][:3])
        if prompt[match.end() :][:1] not in {"+", "#", "'", "’"}
    }
    for text in responses:
        labels = {letter for match in OPTION.finditer(text) for letter in match.groups() if letter}
        used |= labels if len(labels) > 1 else set()
    return frozenset(used)


def read(text: str, count: int, own: frozenset[str] = frozenset()) -> Reading:
    """Find the letters that refer to one of `count` responses.

    `own` is the result of `own_letters` for the task; these letters are ambiguous.
    """
    text = ABBREVIATED.sub(lambda match: " " * len(match[0]), text)
    text = LINK.sub(lambda match: " " * len(match[0]), text)
    letters = LETTERS[:count]
    if _in_doubt(text, letters):
        return Reading(doubt=True)
    german = bool(GERMAN.search(text.lower())) and not ENGLISH.search(text.lower())
    quoted = [match.span() for match in QUOTED.finditer(text)]
    spans = []
    for match in CANDIDATE.finditer(text):
        if match[0] not in letters:
            continue
        kind = _Letter(text, match.start(), letters, german).kind()
        if kind is Kind.RESPONSE and match[0] in own:
            kind = Kind.DOUBT
        if any(start < match.start() < end - 1 for start, end in quoted) and kind != Kind.OTHER:
            kind = Kind.DOUBT
        if kind is Kind.DOUBT:
            return Reading(doubt=True)
        if kind is not Kind.OTHER:
            spans.append(match.start())
    return Reading(tuple(spans))


def _in_doubt(text: str, letters: str) -> bool:
    """Return whether the text seems to refer to a response by something else than one capital letter."""
    clusters = (set(match[0]) for match in CLUSTER.finditer(text))
    return (
        any(cluster <= set(letters) for cluster in clusters)
        or bool(BY_PLACE.search(text))
        or bool(LOOKALIKE.search(text))
        or bool(LOWER_A.search(text))
        or any(
            match[0].upper() in letters and not _other_lower(text, match)
            for match in LOWER.finditer(text)
        )
    )


def _other_lower(text: str, match: re.Match[str]) -> bool:
    before = _last_word(text[max(0, match.start() - WINDOW) : match.start()])
    after = _first_word(text[match.end() : match.end() + WINDOW])
    return before.lower() in NOT_AFTER or (match[0] == "i" and after.lower() in PRONOUN_VERBS)


def _last_word(before: str) -> str:
    match = re.search(r"([\w'’]+)[\s(\[\"“„'‘*]*$", before)
    return match[1] if match else ""


def _first_word(after: str) -> str:
    match = re.match(r"[*)\]\"”“'’]*[ \t]+\(?([\w'’]+)", after)
    return match[1].replace("’", "'") if match else ""


class _Letter:
    """A single capital letter with its context."""

    def __init__(self, text: str, at: int, letters: str, german: bool) -> None:
        self.letter, self.letters, self.german = text[at], letters, german
        self.text = text
        self.before = text[max(0, at - WINDOW) : at]
        self.after = text[at + 1 : at + 1 + WINDOW]
        self.possessive = False

    def kind(self) -> Kind:
        self._unwrap()
        for rule in (
            self._apostrophe, self._symbols, self._operators, self._dashes, self._slash,
            self._dot, self._colon, self._brackets, self._neighbours, self._words_around,
        ):  # fmt: skip
            if (kind := rule()) is not None:
                return kind
        if self.letter == "A":
            return self._article()
        return self._pronoun() if self.letter == "I" else Kind.RESPONSE

    def _unwrap(self) -> None:
        """Remove quotation marks and emphasis around or at the letter."""
        for opening, closing in WRAPPERS:
            if self.before.endswith(opening) and self.after.startswith(closing):
                self.before = self.before[: -len(opening)]
                self.after = self.after[len(closing) :]
        self.before = re.sub(r"(^|[\s(])\*+$", r"\1", self.before)
        if "*" in self.before:
            self.after = re.sub(r"^\*+(?=$|[\s.,;:!?)])", "", self.after)

    def _apostrophe(self) -> Kind | None:
        if self.before[-1:] in {"'", "’", "‘"}:
            return Kind.DOUBT
        if self.after[:1] not in {"'", "’"}:
            return None
        match = re.match(r"['’](\w*)", self.after)
        ending = match[1] if match else ""
        if ending == "s":
            self.after, self.possessive = self.after[2:], True
            return None
        if ending in {"m", "d", "ll", "ve", "re"}:
            return Kind.OTHER if self.letter == "I" else Kind.RESPONSE
        return Kind.DOUBT

    def _symbols(self) -> Kind | None:
        if re.match(r"\+\+|#|\+(?=[\s.,;:!?)]|$)", self.after):
            return Kind.OTHER
        if re.search(r"°\s?$", self.before):
            return Kind.OTHER
        if re.search(r"\d\s?$", self.before) or re.match(r"\s+\d", self.after):
            return Kind.DOUBT
        if self.before.endswith("&") or self.after.startswith("&"):
            pair = re.search(r"(\w?)&?$", self.before), re.match(r"&?(\w?)", self.after)
            sides = "".join(match[1] for match in pair if match).upper()
            return Kind.DOUBT if set(sides) <= set(self.letters) - {self.letter} else Kind.OTHER
        return None

    def _operators(self) -> Kind | None:
        """Classify a letter in “A > B = C”. It is ambiguous unless both sides are responses."""
        before = re.search(rf"(\S?)(?:{OPERATOR})$", self.before)
        after = re.match(rf"(?:{OPERATOR})\(?(\w*)", self.after)
        if before is None and after is None:
            return None
        sides = [match[1].strip("()*") for match in (before, after) if match]
        return Kind.EXPLICIT if all(s and s in self.letters for s in sides) else Kind.DOUBT

    def _dashes(self) -> Kind | None:
        if re.match(r"\s*[-–—−‐‑…]\s*[A-I](?![^\W_])|\.{2,}", self.after):
            return Kind.DOUBT  # a range
        if re.search(r"(?<![^\W_])[A-I]\s*[-–—−‐‑…]\s*$|\.\.$", self.before):
            return Kind.DOUBT
        if match := re.match(r"[-‐‑−–](\w*)", self.after):
            noun = match[1].lower()
            if noun in NOUNS:
                return Kind.EXPLICIT
            return Kind.OTHER if noun else Kind.DOUBT
        if match := re.search(r"(\w*)[-‐‑−–]$", self.before):
            if match[1].lower() in NOUNS:
                return Kind.EXPLICIT
            if match[1].lower() in NOT_AFTER:
                return Kind.OTHER
            return Kind.DOUBT if match[1] else None
        if re.match(r"\s+(?:to|through|thru|until|bis)\s+[A-I](?![^\W_])", self.after):
            return None if re.search(r"\bprefer\w*\s+$", self.before) else Kind.DOUBT
        return None

    def _slash(self) -> Kind | None:
        if self.before[-1:] not in {"/", "\\"} and self.after[:1] not in {"/", "\\"}:
            return None
        before, after = re.search(r"[\w/\\]*$", self.before), re.match(r"[\w/\\]*", self.after)
        whole = (before[0] if before else "") + self.letter + (after[0] if after else "")
        if whole.upper() == "N/A" or re.match(r"\S*[\s-]*tests?\b", self.after, re.I):
            return Kind.OTHER
        sides = whole.split("/")
        if set(sides) == {"A", "C"} or not all(side and side in self.letters for side in sides):
            return Kind.DOUBT
        return None

    def _dot(self) -> Kind | None:
        if re.search(r"\bz\.\s?$", self.before):  # German: for example
            return Kind.OTHER
        if re.search(r"(?<![^\W_])\w\.$", self.before) or re.match(r"\.[A-Z]\.", self.after):
            return Kind.OTHER
        if not self.after.startswith("."):
            return None
        starts_line = re.search(r"(?:^|\n)[\s*>-]*$", self.before)
        if starts_line and self.after[1:].strip():
            return Kind.DOUBT
        if re.match(r"\.(?:\w|\s+[a-zäöü]|\s?[A-Z]\.)", self.after):
            return Kind.DOUBT
        name = re.search(r"\b[A-Z]\w*\.?\s+$", self.before)
        named = name is not None and _last_word(self.before).lower() not in STARTERS | NOUNS
        return Kind.DOUBT if named and self.after[1:].strip() else None

    def _colon(self) -> Kind | None:
        if not self.after.startswith(":"):
            return None
        if self.after[1:2] in {"\\", "/"}:
            return Kind.OTHER
        quiz = self.letter == "A" and re.search(r"\bQ\s*[:.]", self.text)
        return Kind.DOUBT if quiz or self.after[1:2].isdigit() else None

    def _brackets(self) -> Kind | None:
        opened, closed = self.before[-1:] in {"(", "["}, self.after[:1] in {")", "]"}
        if closed and not opened:
            line = self.before.rpartition("\n")[2]
            inside = line.count("(") + line.count("[") > line.count(")") + line.count("]")
            return None if inside else Kind.DOUBT
        if not (opened and closed):
            return Kind.DOUBT if opened and re.search(r"\w[(\[]$", self.before) else None
        outside, rest = self.before[:-1], self.after[1:]
        if _last_word(outside).lower() in NOUNS:
            return Kind.EXPLICIT
        if re.search(r"\w$", outside):
            return Kind.DOUBT
        ended = re.match(r"\s*(?:$|[.,;!?]|(?:and|or|und|oder)\b)", rest)
        subject = _first_word(rest).lower() in VERBS or _is_third_person(_first_word(rest))
        return Kind.RESPONSE if ended or subject else Kind.DOUBT

    def _neighbours(self) -> Kind | None:
        """Classify a letter next to an unexpected character as ambiguous."""
        known_before = re.search(r"(?:^|[\s(\[,;:.!?\"“„/—–-])$", self.before)
        known_after = re.match(r"(?:$|[\s)\],;:.!?…\"”/—])", self.after)
        return None if known_before and known_after else Kind.DOUBT

    def _words_around(self) -> Kind | None:
        if IN_LANGUAGE.search(self.before) or TITLE.search(self.before):
            return Kind.DOUBT
        heads = re.search(
            rf"([\w'’]+)\s+(?:{APART}{JOINED})*$", self.before
        )  # “responses A, B and”
        head = heads[1].lower() if heads and not SENTENCE_START.search(self.before) else ""
        if head in NOUNS:
            return Kind.EXPLICIT
        if head in NOT_AFTER:
            one_of_many = re.search(rf"{APART}{JOINED}$", self.before)
            return Kind.DOUBT if one_of_many and not head.endswith("s") else Kind.OTHER
        if head in DOUBT_AFTER:
            return Kind.DOUBT
        following = _first_word(self.after)
        if following.lower() in DOUBT_BEFORE:
            return Kind.DOUBT
        last = "" if SENTENCE_START.search(self.before) else _previous(self.before)
        return Kind.DOUBT if _is_name(last) or _is_name(following) else None

    def _article(self) -> Kind:
        """Distinguish “A good answer” from “A is good” at the start of a sentence."""
        following = _first_word(self.after).lower()
        starts = SENTENCE_START.search(self.before)
        if self.german or self.possessive or not following or not starts:
            return Kind.RESPONSE
        if self.after[:1] not in {" ", "\t", "*", '"'}:
            return Kind.RESPONSE
        if following in VERBS or _is_third_person(following):
            return Kind.RESPONSE
        words = re.match(r"\s+([\w'-]+(?:[ \t]+[\w'-]+)*)", self.after)
        rest = words[1].lower().split() if words else []
        while rest and rest[0] in ADJECTIVES:
            rest.pop(0)
        described = (
            following in ADJECTIVES and rest and rest[0] not in VERBS | {"for", "as", "with"}
        )
        return Kind.OTHER if described or following in ARTICLE_NOUNS else Kind.DOUBT

    def _pronoun(self) -> Kind:
        following = _first_word(self.after).lower()
        if following in PRONOUN_VERBS:
            return Kind.OTHER
        listed = re.match(rf"{JOINED}[A-H](?![^\W_])", self.after)
        listed = listed or re.search(rf"(?<![^\W_])[A-H]{JOINED}$", self.before)
        return Kind.RESPONSE if listed or following in {"is", "has", "ist", "hat"} else Kind.DOUBT


def _previous(before: str) -> str:
    """Return the last word of the text if only spaces and brackets follow it, otherwise ""."""
    match = re.search(r"([^\W\d_][\w'’]*)[\s(\[\"“„]+$", before)
    return match[1] if match else ""


def _is_name(word: str) -> bool:
    """Return whether the word looks like a name: capitalised, but not all capitals or a common word."""
    if len(word) < 2 or not word[0].isupper() or word.isupper():
        return False
    return word.lower() not in STARTERS | NOUNS | VERBS and not word.endswith("ly")


def _is_third_person(word: str) -> bool:
    word = word.lower()
    return (
        len(word) > 3 and word.endswith("s") and word[-2:-1] not in "siu" and word not in NO_VERBS
    )
