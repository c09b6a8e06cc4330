"""Tests of recognising letters that name responses in a text."""

import pytest

from labeling.core.letter_references import own_letters, read


def marked(text, count=4, own=frozenset()):
    reading = read(text, count, own)
    if reading.doubt:
        return None
    return "".join(f"[{c}]" if i in reading.spans else c for i, c in enumerate(text))


@pytest.mark.parametrize(
    "expected",
    [
        "[C] is best because it is safe",
        "[A] is good. [B] is worse.",
        "A good answer. [B] is worse.",
        "A better answer than [B]",
        "[A] gives more detail than [B].",
        "[A] doesn't mention the price; [C] does.",
        "A lot of detail in [B].",
        "Only [A] mentions it.",
        "Plan B is mentioned, but [C] is best.",
        "vitamin C matters and [B] says so",
        "vitamins B and C; [D] lies",
        "Uses C++ in [B]; C# and A+ are fine",
        "[A] > [B] = [C]",
        "[A]>[B]>[C]",
        "[A]/[B] both fail",
        "an A/B test would help; [C] knows",
        "([A]) is best",
        "I liked the last ([C]).",
        "(better than [A])",
        "[A], [B] and [C] are fine; [D] is not.",
        "neither [A] nor [B]",
        "[C]'s tone is better than [A]'s",
        "[C]’s tone",
        "**[C]** is best, *[A]* is worst",
        '"[B]" is best',
        "Best: [C]. Worst: [A].",
        "I prefer [B]. It is short.",
        "I prefer [A] to [C]",
        "I think [C] is better, N/A for the rest",
        "[A]: good\n[B]: bad",
        "Response [B] is better than Response [A].",
        "e.g. [C] says so; z.B. [B] auch",
        "[C] ist besser als [A]",
        "[A] antwortet höflich und ist besser",
        "[B]-Antwort ist besser als Antwort [A]",
        "https://x.org/A/B is cited by [C]",
        "20 °C is cold in [B]",
        "U.S.A is fine; [B] too",
        "[B]—it is shorter",
        "R&B is mentioned by [C]",
        "[A]",
    ],
)
def test_letters_that_name_responses_are_recognised_and_no_others(expected):
    assert marked(expected.replace("[", "").replace("]", "")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "A better than B",
        "A good, B bad",
        "A missed the point",
        "b is better than a",
        "b > a",
        "Option B is right",
        "A-C are fine",
        "A–C are fine",
        "A to C are fine",
        "Michael B. Jordan",
        "Cardi B is great",
        "Mr. B is rude",
        "20 C is cold",
        "written in C, so it is fast",
        "the C code is wrong",
        "deserves an A",
        "ACB",
        "the first response is best",
        "answer 2 is best",
        "A. Good\nB. Bad",
        "_C_ is best",
        "A = 5",
        "Q: what? A: this",
        "A 10/10, B 4/10",
        "B says “the answer C is right”",
        "> C is right\nNo.",
        "`A` is undefined",
        "因为B更好",
        "С is best, in Cyrillic",
        "l'A est bon",
        "plan B and C is best",
        "A+B",
    ],
)
def test_an_ambiguous_letter_makes_the_text_ambiguous(text):
    assert marked(text) is None


def test_a_letter_beyond_the_number_of_responses_names_none():
    assert marked("D is for dogs, C is not", 3) == "D is for dogs, [C] is not"
    assert marked("D is the key", 3) == "D is the key"


def test_the_pronoun_is_not_the_ninth_response():
    assert marked("I think A wins", 9) == "I think [A] wins"
    assert marked("H > I", 9) == "[H] > [I]"
    assert marked("I was right about it", 9) is None


def test_letters_that_the_task_uses_itself_need_to_be_explicit():
    quiz = own_letters("Which one?\nA) Paris\nB) Rome")
    assert quiz == {"A", "B"}
    assert marked("B is right", own=quiz) is None
    assert marked("C is right", own=quiz) == "[C] is right"
    assert marked("Response B says so", own=quiz) == "Response [B] says so"
    assert own_letters("Write a C program") == {"C"}
    assert own_letters("A good question about C++") == frozenset()
    assert own_letters("Ask.", ["(A) one, (B) two", "(C) alone"]) == {"A", "B"}
