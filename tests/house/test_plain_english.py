"""The language of code and pages stays plain. `python -m tests.house.plain_english` lists the hits."""

import pytest

from tests.house.plain_english import count, participles

CODE = (
    "accounts", "config", "database", "finetune", "formatting", "labeling", "recipes", "reward", "runs",
)  # fmt: skip
"""Without demo/, which holds the letters and replies of a lamp shop as data."""
HINT = "python -m tests.house.plain_english lists the phrasings to replace"


@pytest.mark.parametrize(
    ("paths", "most"),
    [(CODE, 3), (("templates", "static"), 3), (("benchmarks",), 3), (("tests",), 20)],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value),
)
def test_rare_phrasings_stay_rare(paths: tuple[str, ...], most: float) -> None:
    total = count(list(paths))
    assert total.words > 1000
    assert total.rate() <= most, HINT


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    total = count([*CODE, "benchmarks", "demo", "tests"])
    assert total.docstrings > 1000
    assert total.verbless() <= 0.05, HINT


def test_names_are_nouns_rather_than_participles() -> None:
    assert len(participles(list(CODE))) <= 25


def test_each_pattern_finds_its_example(tmp_path, monkeypatch) -> None:
    examples = {
        "word": "It is built anew.",
        "is no": "This is no JSON.",
        "else": "It waits, else it fails.",
        "clause": "What is missing comes with the packages.",
        "clause object": "It counts the rows of what was read.",
    }
    for kind, sentence in examples.items():
        path = tmp_path / "page.md"
        path.write_text(sentence)
        monkeypatch.setattr("tests.house.plain_english.files", lambda paths, path=path: [path])
        assert kind in {hit.kind for hit in count([]).hits}, sentence
