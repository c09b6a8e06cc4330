"""Detect responses that reveal their model or were cut off.

A lead must read every finding, so the rules avoid false alarms even if they miss some cases. They ignore
quotations, code, and text about other models; a response must say which model it is itself. "As an AI
language model" alone does not reveal the model. In a long text, only the beginning and the end are read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labeling.models import Finding

HEAD, TAIL = 8_000, 4_000
EXCERPT = 300


@dataclass(frozen=True)
class Match:
    kind: str
    excerpt: str


def scan(text: str, *, model: str = "", sampling: Mapping[str, Any] | None = None) -> list[Match]:
    """Return at most one match of each kind. A text of 1,000 characters takes about 50 µs."""
    matches = []
    if leak := identity_leak(text, model):
        matches.append(Match(Finding.Kind.IDENTITY, leak))
    if cut := truncation(text, sampling or {}, model):
        matches.append(Match(Finding.Kind.TRUNCATED, cut))
    return matches


# --- identity ------------------------------------------------------------------------------------

_MAKER = (
    r"(?:Open ?AI|Anthropic|Google(?: DeepMind| AI| Research)?|DeepMind|Meta(?: AI)?|Facebook AI"
    r"|Microsoft|Mistral AI|Alibaba(?: Cloud)?|DeepSeek|xAI|Cohere|Stability AI|LMSYS|LAION|Baidu"
    r"|Moonshot AI|Zhipu(?: AI)?|Databricks|EleutherAI|AI21(?: Labs)?|Inflection(?: AI)?|Nvidia"
    r"|NVIDIA|Hugging ?Face|TII|01\.AI|百度|阿里巴巴|阿里云|智谱|月之暗面|深度求索)"
)
_ONLY_A_MODEL = (
    r"(?:Chat-?GPT(?:-?\d[\w.]*)?|Instruct-?GPT|GPT-?\d[\w.]*|text-davinci-\d+|Bing Chat|GitHub Copilot"
    r"|Microsoft Copilot|Open ?Assistant|StableLM|Stable ?Vicuna|Chat-?GLM\d*|GLM-\d[\w.]*|Command R\+?"
    r"|Phi-\d[\w.]*|Gemma(?: ?\d)?|Qwen[\w.-]*|DeepSeek[\w.-]*|Mixtral|LLaMA[\w.-]*|Llama[ -]?\d[\w.-]*"
    r"|Claude[ -](?:\d[\w.]*|Instant|Opus|Sonnet|Haiku)|PaLM ?2?|LaMDA|Ernie Bot|Kimi|Nemotron"
    r"|WizardLM|OpenHermes|Tülu|OLMo|通义千问|文心一言|豆包)"
)
_ALSO_A_NAME = r"(?:Claude|Gemini|Bard|Llama|Mistral|Grok|Copilot|Vicuna|Alpaca|Koala|Dolly|Falcon)"
"""Model names that are also names of people or animals, or ordinary words."""

_I_AM = (
    r"(?:\bI am|\bI['’]m|\b[Mm]y name is|\b[Mm]y name['’]s|\bcall me|\b[Jj]e suis|\b[Jj]e m['’]appelle"
    r"|\b[Ii]ch bin|\b[Ii]ch hei(?:ß|ss)e|\b[Ss]oy|\b[Mm]e llamo|\b[Ss]ono|\b[Ee]u sou|我是|我叫)"
)
_BETWEEN = (
    r"(?:,? (?:actually|just|only|simply|called|known as|the|an?|und|un|eine?|o|"
    r"(?:an? )?(?:AI|A\.I\.|virtual|artificial intelligence|large language|language)"
    r"(?:[ -](?:language|chat|based|powered|virtual))*"
    r"(?: (?:model|assistant|chatbot|bot|program))?,?(?: (?:called|named|known as))?)){0,3}"
)
_AN_AI = r"\b(?:AI|A\.I\.|artificial intelligence|language model|LLM|chatbot|virtual assistant|assistant|model)\b"
_MADE = r"(?:developed|created|trained|made|built|designed|programmed|fine-?tuned|powered|provided)"
_MADE_BY = rf"{_MADE}(?: and \w+)?(?: \w+)? by(?: the)?(?: (?:team|people|researchers|engineers) (?:at|from|of))? {_MAKER}"

STEMS = (
    "gpt", "openai", "open ai", "anthropic", "google", "deepmind", "facebook", "microsoft",
    "mistral", "mixtral", "alibaba", "deepseek", "xai", "stability ai", "lmsys", "laion",
    "baidu", "moonshot", "zhipu", "databricks", "eleuther", "ai21", "inflection", "nvidia", "hugging",
    "tii", "01.ai", "davinci", "bing chat", "copilot", "open assistant", "openassistant", "stablelm", "vicuna", "glm", "command r",
    "phi-", "gemma", "qwen", "llama", "claude", "palm", "lamda", "ernie", "kimi", "nemotron", "wizardlm",
    "hermes", "tülu", "olmo", "gemini", "bard", "grok", "alpaca", "koala", "dolly", "falcon",
    "百度", "阿里", "智谱", "月之暗面", "深度求索", "通义", "文心", "豆包",
)  # fmt: skip
STEM_WORDS = re.compile(r"\b(?:meta|cohere)\b")
"""Like STEMS, but whole words, so that "metal" does not match. A text with neither is not searched."""
LEAKS = (
    re.compile(rf"{_I_AM}{_BETWEEN} ?{_ONLY_A_MODEL}"),
    re.compile(rf"{_I_AM}{_BETWEEN} {_MAKER}['’]s (?:\w+ ){{0,3}}{_AN_AI}"),
    re.compile(rf"{_I_AM}[^.!?\n]{{0,80}}{_AN_AI}[^.!?\n]{{0,60}}{_MADE_BY}"),
    re.compile(rf"\bI(?: was|['’]ve been| have been) {_MADE_BY}(?![^.!?\n]*\b(?:engineer|employee|manager|staff))"),
    re.compile(rf"(?:^|[.!?:\n] ?|\bSorry, (?:but )?)As an? [^.!?\n]{{0,40}}{_AN_AI}[^.!?\n,]{{0,40}}{_MADE_BY}"),
    re.compile(rf"\b[Aa]s an? [^.!?\n]{{0,40}}{_AN_AI}[^.!?\n,]{{0,40}}{_MADE_BY}[^.!?\n]{{0,20}}, I\b"),
    re.compile(rf"\bAs (?:{_ONLY_A_MODEL}|{_ALSO_A_NAME}|{_MAKER}['’]s [\w ]{{1,30}}),(?: [^.!?\n]{{0,80}},)? I(?: |['’])"),
    re.compile(rf"\b{_MAKER},? (?:has |have )?(?:developed|created|trained|made|built|designed) me\b"),
    re.compile(rf"\b[Mm]y (?:creators?|developers?|makers?)(?: (?:at|is|are|,))? {_MAKER}"),
    re.compile(rf"\b(?:talking|chatting|speaking) (?:to|with) (?:{_ONLY_A_MODEL}|{_ALSO_A_NAME}),? (?:an? |the )?{_AN_AI}"),
    re.compile(rf"(?:我|本)[^。！？\n]{{0,12}}由 ?{_MAKER}[^。！？\n]{{0,12}}(?:开发|训练|创造|研发|打造)"),
    re.compile(
        rf"{_I_AM} {_ALSO_A_NAME}(?=[.!]?$|[.!]\s|,? (?:an?|the|your) [^.!?\n]{{0,60}}{_AN_AI}"
        rf"|,? (?:and )?(?:I['’]m|I am|I was)[^.!?\n]{{0,60}}(?:{_AN_AI}|{_MAKER})"
        rf"|,? [^.!?\n]{{0,40}}{_MADE_BY}|[ ,]+(?:from|by) {_MAKER})",
        re.MULTILINE,
    ),
)  # fmt: skip

QUOTED = re.compile(r"\"[^\"\n]{1,400}\"|“[^”\n]{1,400}”|«[^»\n]{1,400}»|„[^“\n]{1,400}“")
FENCED = re.compile(
    r"^[ ]{0,3}(```|~~~)[^\n]*\n.*?(?:^[ ]{0,3}\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL
)
QUOTE_LINE = re.compile(r"^[ ]{0,3}>[^\n]*$", re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]{1,400}`")
NOT_NAMES = {"human", "unknown", "model", "baseline", "reference"}


def identity_leak(text: str, model: str = "") -> str:
    """Return the words with which a response reveals its model, or "".

    `model` is the stored name of the response's model. The text should not contain this name either.
    """
    read = text if len(text) <= HEAD + TAIL else f"{text[:HEAD]}\n{text[-TAIL:]}"
    lower = read.lower()
    own = _own_name(model, lower)
    if not own and not any(stem in lower for stem in STEMS) and not STEM_WORDS.search(lower):
        return ""
    for quoted in (FENCED, QUOTE_LINE, INLINE_CODE, QUOTED):
        read = quoted.sub(" ", read)
    matches = (leak.search(read) for leak in (*LEAKS, *([own] if own else [])))
    first = min(
        (match for match in matches if match), key=lambda match: match.start(), default=None
    )
    return _around(read, first.start(), first.end()) if first else ""


def _own_name(model: str, lower: str) -> re.Pattern[str] | None:
    bare = model.rsplit("/", 1)[-1].strip()
    if len(bare) < 4 or bare.lower() in NOT_NAMES or bare.lower() not in lower:
        return None
    return re.compile(rf"{_I_AM}{_BETWEEN} {re.escape(bare)}(?!\w)", re.IGNORECASE)


def _around(text: str, start: int, end: int) -> str:
    begin = max(text.rfind("\n", 0, start), text.rfind(". ", 0, start), start - 80) + 1
    words = " ".join(text[begin : end + 120].split())
    return words[:EXCERPT]


# --- truncation ----------------------------------------------------------------------------------

SHORTEST = 40
DANGLING = re.compile(
    r"(?:an?|the|of|and|or|to|with|for|in|on|at|is|are|was|were|be|been|that|which|who|whose|because|as"
    r"|by|from|but|its|their|your|our|my|his|if|than|can|will|would|could|should|may|might|must|such"
    r"|including|into|about|between|through|during|when|while|where|very|most|has|have|had|it['’]s"
    r"|you['’]re|they['’]re|i['’]m)",
    re.IGNORECASE,
)
IDIOMS = re.compile(
    r"(?:waiting|looking|asking|care|hope|need|live|strive|stand|fight|up|made|thankful|grateful) "
    r"(?:for|of|to|with|in|on|by|about)$|(?:and so on|as such|so be it|no more|once more|nothing more|as is"
    r"|who you are|what it is|yes you can|yes it is|more or less|why not)$",
    re.IGNORECASE,
)
ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)]|[A-Za-z][.)])\s+")
OTHER_LINE = re.compile(r"\s*(?:#|\||>|[-*_=]{3,}\s*$|```)")
NO_SENTENCE = re.compile(r"(?:https?://|#|@)\S+$|\S+@\S+$|[0-9]+$")
SIGN_OFF = re.compile(r"(?:[A-Z]\w+ ){0,2}\w+,$")
PERSON = "human"
LONG = 800
FENCE = re.compile(r"^[ ]{0,3}(?:```|~~~)[^`\n]*$", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?…。！？:][*_\"'”’»)\]]*$")


def truncation(text: str, sampling: Mapping[str, Any], model: str = "") -> str:
    """Return the end of a response that was cut off, or "" if it seems complete.

    A person's text has no token limit and often no final full stop. It counts as cut off only if it ends
    where no sentence can end.
    """
    if reached_limit(sampling):
        return _end(text) or "(empty)"
    body = text.rstrip()
    if len(body) < SHORTEST:
        return ""
    if len(FENCE.findall(body)) % 2:
        return _end(body)
    last = body[-TAIL:].rsplit("\n", 1)[-1].strip()
    if OTHER_LINE.match(last) or NO_SENTENCE.search(last):
        return ""
    if _dangles(last) or (model != PERSON and _lacks_usual_full_stop(body, last)):
        return _end(body)
    return ""


def reached_limit(sampling: Mapping[str, Any]) -> bool:
    """Return whether the response reached its token limit, according to its sampling parameters."""
    if isinstance(truncated := sampling.get("truncated"), bool):
        return truncated
    if sampling.get("finish_reason") in ("length", "max_tokens"):
        return True
    tokens, limit = sampling.get("tokens"), sampling.get("max_new_tokens")
    return isinstance(tokens, int) and isinstance(limit, int) and tokens >= limit > 0


def _dangles(last: str) -> bool:
    """Return whether the text ends where no sentence can end, such as after a comma or "the"."""
    if SIGN_OFF.fullmatch(last) and len(last) < 30:
        return False
    if last[-1] in ",([{" or last.endswith((" -", " –", " —")):
        return True
    word = re.split(r"[\s(\[*_]+", last)[-1]
    return bool(DANGLING.fullmatch(word)) and len(last.split()) > 3 and not IDIOMS.search(last)


def _lacks_usual_full_stop(body: str, last: str) -> bool:
    """Return whether the last line lacks a full stop although earlier lines of its kind have one."""
    if not last[-1].isalnum():
        return False
    lines = [line.strip() for line in body[-HEAD:].split("\n")]
    item = bool(ITEM.match(last))
    alike = [
        line
        for line in lines[:-1]
        if line and not OTHER_LINE.match(line) and bool(ITEM.match(line)) == item and len(line) > 30
    ]
    stopped = sum(bool(SENTENCE_END.search(line)) for line in alike)
    if item:
        return len(alike) >= 2 and stopped == len(alike) and len(last.split()) > 3
    inner = len(re.findall(r"[a-z0-9)][.!?] +[A-Z\"“]", last))
    if inner:
        return len(body) >= LONG and stopped >= 0.8 * len(alike)
    whole = len(alike) >= 2 and stopped >= 0.8 * len(alike)
    return whole and len(body) >= LONG and len(last.split()) > 5


def _end(text: str) -> str:
    words = " ".join(text[-2 * EXCERPT :].split())
    return words if len(words) <= 160 else "…" + words[-159:]
