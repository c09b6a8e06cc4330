"""Counts the phrasings that readers new to the product had to read twice.

    python -m tests.house.plain_english [PATH…]      list them, in these files or in all

Prose, interface text, messages, docstrings, comments and test names are searched for a few patterns
that are rare in the documentation of other projects. The rates are per 10,000 words. A hit is a hint:
`beside` is right for two things next to each other on a page, and then `next to` is as good.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SKIPPED = ("/migrations/", "/results/", "/locale/", "tests/house/plain_english.py", "CHANGELOG.md")

WORDS = (
    "accuse[sd]?", "all the same", "anew", "at once", "beside", "besides", "by itself",
    "by then", "by themselves", "for want of", "go(?:es)? by", "in sight", "(?:lie|lies|lay) (?:apart|"
    "at|below|beside|between|in|inside|on|outside|under|within)", "loves?", "makes? for", "meanwhile",
    "mend(?:s|ed|ing)?", "speaks?", "stands? there", "tells?", "told", "whence", "whichever", "whoever",
)  # fmt: skip
PATTERNS = {
    "word": re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.I),
    "is no": re.compile(r"(?<!there )(?<!There )\b(?:is|are|was|were) no (?!longer|more\b|less|fewer|need|way)\w+"),
    "else": re.compile(r"[,;] (?:or )?else\b"),
    "clause": re.compile(
        r"(?:^|(?<=[.!:;] ))(?:Who|Whoever|Whatever|What|Which of|How (?:far|often|much|well))\b[^.?:]*(?=[.:]|$)"
    ),
    "clause object": re.compile(
        r"\b(?:of|by|from|with|to|for|than) (?:what|whom|who) (?:is|are|was|were|has|have|it|they|he|"
        r"she|the|a|follow|came|come)\w*\b"
    ),
}  # fmt: skip
VERBLESS = re.compile(
    r"(?:A|All|An|As|At|Both|But|By|Each|For|From|How|In|It|Its|None|Not|Of|On|One|Only|So|That|The|This|"
    r"Those|To|True|False|What|When|Where|Whether|Which|Who|Whoever|Whose|Why|With|Within)\b"
)


@dataclass(frozen=True)
class Hit:
    path: Path
    line: int
    kind: str
    text: str


@dataclass
class Count:
    words: int
    docstrings: int
    hits: list[Hit]

    def rate(self) -> float:
        """Return the hits per 10,000 words, docstrings without a verb not counted."""
        counted = sum(hit.kind != "docstring" for hit in self.hits)
        return 1e4 * counted / max(self.words, 1)

    def verbless(self) -> float:
        """Return the share of function docstrings that begin with something else than a verb."""
        return sum(hit.kind == "docstring" for hit in self.hits) / max(self.docstrings, 1)


def files(paths: list[str]) -> list[Path]:
    """Return the tracked files with prose in them, below these paths."""
    listed = subprocess.run(
        ["git", "ls-files", "--", *paths], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    return [
        ROOT / name
        for name in listed
        if name.endswith((".py", ".md", ".html", ".js"))
        and not any(part in f"/{name}" for part in SKIPPED)
        and (ROOT / name).is_file()
    ]


def count(paths: list[str]) -> Count:
    total = Count(0, 0, [])
    for path in files(paths):
        for line, kind, text in pieces(path):
            total.words += len(text.split())
            if kind == "function":
                total.docstrings += 1
                if VERBLESS.match(text):
                    total.hits.append(Hit(path, line, "docstring", text.split("\n")[0]))
            for name, pattern in PATTERNS.items():
                for match in pattern.finditer(text):
                    around = text[max(0, match.start() - 40) : match.end() + 30]
                    at = line + text[: match.start()].count("\n")
                    total.hits.append(Hit(path, at, name, " ".join(around.split())))
    return total


def pieces(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the first line, the kind and the text of every piece of prose in a file."""
    source = path.read_text()
    if path.suffix == ".py":
        yield from _pieces_of_python(source)
    elif path.suffix == ".md":
        prose = re.sub(r"```.*?```", lambda m: "\n" * m[0].count("\n"), source, flags=re.S)
        yield 1, "prose", re.sub(r"`[^`\n]*`|https?://\S+|[#*_>\[\]|]", " ", prose)
    elif path.suffix == ".js":
        for number, text in enumerate(source.split("\n"), 1):
            if match := re.match(r"\s*(?://|/?\*+)\s?(.+)", text):
                yield number, "comment", match[1]
    else:
        blank = lambda match: "\n" * match[0].count("\n") + " "  # noqa: E731
        yield 1, "page", re.sub(r"{%.*?%}|{{.*?}}|<[^>]+>", blank, source, flags=re.S)


def _pieces_of_python(source: str) -> Iterator[tuple[int, str, str]]:
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            docstrings.add(id(node.body[0].value))  # type: ignore[attr-defined]
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield node.body[0].lineno, "function" if function else "docstring", text
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, "test name", node.name.removeprefix("test_").replace("_", " ")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.split()
            if id(node) not in docstrings and len(words) > 3 and "SELECT" not in words:
                yield node.lineno, "text", node.value
    for number, text in enumerate(source.split("\n"), 1):
        if match := re.search(r"(?:^|\s)# (?!noqa|type:|fmt:)(.+)", text):
            yield number, "comment", match[1]


PARTICIPLES = {
    "asked", "found", "given", "kept", "known", "left", "made", "meant", "one", "place", "said",
    "seen", "shown", "told", "wanted",
}  # fmt: skip


def participles(paths: list[str]) -> list[str]:
    """Return the places at which a variable or parameter is called `found`, `said` and the like."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
        for path in files(paths)
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if (name := _bound_name(node)) in PARTICIPLES
    ]


def _bound_name(node: ast.AST) -> str:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return node.arg if isinstance(node, ast.arg) else ""


def main(paths: list[str]) -> None:
    total = count(paths)
    for hit in sorted(total.hits, key=lambda hit: (hit.path, hit.line)):
        print(f"{hit.path.relative_to(ROOT)}:{hit.line}: {hit.kind}: {hit.text}")
    for name in participles(paths):
        print(name)
    print(Counter(hit.kind for hit in total.hits).most_common())
    print(
        f"{total.rate():.1f} per 10,000 words ({total.words} words); "
        f"{total.verbless():.1%} of {total.docstrings} docstrings without a verb"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
