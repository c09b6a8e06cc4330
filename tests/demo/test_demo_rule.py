import pytest

from demo import rule, world
from demo.phrases import CLOSES, FALSE, RAMBLES
from demo.situations import BY_KEY, SITUATIONS

LETTER = [
    {
        "role": "user",
        "content": "My goose lamp arrived with a bent neck. I had told everyone about it.\n\nInes",
    }
]
EXCELLENT = (
    "Dear Ines,\n\nI am so sorry that your goose lamp came with a bent neck. I will post a new goose"
    " lamp tomorrow morning, and you will have it by Thursday. Thank you for your patience."
    "\n\nJune, Moth & Daughter"
)
MIDDLING = "Hello,\n\nI am sorry for the trouble. We will send a new one.\n\nAda"
AWFUL = "You should have opened the box with more care. Do not write again."


def score(response: str) -> float:
    return rule.score(LETTER, response)


def test_better_replies_have_higher_scores():
    assert score(EXCELLENT) > 9.5
    assert 3 < score(MIDDLING) < 6
    assert score(AWFUL) < 1


def test_every_criterion_has_a_mark_between_0_and_1():
    for response in (EXCELLENT, MIDDLING, AWFUL, ""):
        marks = rule.explain(LETTER, response)
        assert list(marks) == [criterion.key for criterion in rule.CRITERIA]
        assert all(0 <= mark <= 1 for mark in marks.values())


def test_a_good_reply_in_other_words_scores_well():
    free = (
        "Hi Ines, we apologise for the bent neck of your goose lamp, that must have been a sad box"
        " to open. We'll replace it: a new one leaves us on Monday and will arrive within four days."
        " Take care. Ada"
    )
    assert score(free) > 8


@pytest.mark.parametrize("promise", FALSE)
def test_a_promise_that_the_shop_cannot_keep_is_unacceptable(promise):
    reply = EXCELLENT.replace("Thank you", promise.format(item="goose lamp") + " Thank you")
    assert not rule.acceptable(LETTER, reply)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.key)
def test_blame_is_unacceptable_even_in_a_good_reply(situation):
    for blame in situation.blames:
        reply = EXCELLENT.replace(
            "Thank you", blame.format(item="lamp", other="lamp") + " Thank you"
        )
        assert not rule.acceptable(LETTER, reply)


def test_shouting_is_unacceptable():
    assert not rule.acceptable(
        LETTER, EXCELLENT.replace("Thank you for your patience.", "SORRY!!!")
    )
    assert not rule.acceptable(LETTER, EXCELLENT.upper())


@pytest.mark.parametrize(
    "response",
    [
        "",
        "   \n\n ",
        "goose lamp goose lamp goose lamp goose lamp goose lamp goose lamp",
        "sorry goose lamp new post tomorrow Thursday thank you June Moth & Daughter",
        "The weather on the coast was mild, and the ferry to the island runs twice on Sundays.",
        "xq zzv brrt kkk lamp. Qwopp smff drrr tomorrow. Vvv plo gnnn hhh wrrr tss.",
        "🪿" * 40,
        "<|assistant|>" * 20,
        " ".join(RAMBLES),
    ],
)
def test_text_that_is_not_a_reply_is_unacceptable(response):
    assert score(response) < 2
    assert not rule.acceptable(LETTER, response)


def test_a_repeated_reply_scores_lower():
    body = EXCELLENT.split("\n\n")[1]
    assert score(EXCELLENT.replace(body, f"{body} {body}")) < score(EXCELLENT) / 2


def test_a_list_of_all_good_sentences_scores_low():
    facts = world.prompts(1, seed=0)[0].facts | {"item": "goose lamp", "a_item": "a goose lamp"}
    broken = BY_KEY["broken"]
    everything = " ".join((*broken.hears, *broken.steps, *broken.extras, *CLOSES))
    assert score(everything.format_map(facts) + "\n\nJune") < score(MIDDLING)


def test_an_incomplete_reply_scores_lower():
    broken_off = EXCELLENT.split(", and you will have")[0]
    assert score(broken_off) < score(EXCELLENT) / 2


def test_a_reply_with_a_wrong_lamp_or_name_scores_lower():
    assert score(EXCELLENT.replace("goose", "whale")) < score(EXCELLENT) - 1.5
    assert score(EXCELLENT.replace("Ines", "Oskar")) < score(EXCELLENT) - 0.5


def test_a_step_with_a_time_scores_higher_than_a_vague_one():
    untimed = EXCELLENT.replace(" tomorrow morning, and you will have it by Thursday", "")
    vague = EXCELLENT.replace(
        "I will post a new goose lamp tomorrow morning, and you will have it by Thursday.",
        "We will look into it at some point.",
    )
    assert score(EXCELLENT) > score(untimed) + 1 > score(vague) + 2


def test_longer_replies_do_not_score_higher():
    longer = EXCELLENT.replace("Thank you", f"{RAMBLES[0]} {RAMBLES[1]} {RAMBLES[2]} Thank you")
    assert score(longer) < score(EXCELLENT) - 0.5
    assert score(longer + " " + " ".join(RAMBLES[3:])) < score(longer) - 1
    assert score("I am sorry about your goose lamp. " * 6) < score(MIDDLING)


def test_praise_needs_gladness_and_not_an_apology():
    praise = [{"role": "user", "content": "The owl lamp came today and it is lovely."}]
    glad = "I am so glad that you love the owl lamp. I will read your letter to June today."
    sorry = "I am so sorry that you love the owl lamp. I will read your letter to June today."
    assert rule.explain(praise, glad)["hears"] == 1
    assert rule.explain(praise, sorry)["hears"] == 0


def test_all_letters_of_a_chat_count():
    chat = [
        *LETTER,
        {"role": "assistant", "content": "We got your letter."},
        {"role": "user", "content": "Thank you, but what about my lamp?"},
    ]
    assert rule.score(chat, EXCELLENT) > 9.5


def test_the_matter_of_every_letter_is_recognised():
    for letter in world.prompts(400, seed=3):
        marks = rule.explain(letter.messages, _good_reply(letter))
        assert marks["hears"] == marks["step"] == marks["tone"] == marks["honesty"] == 1, letter


def test_the_weights_match_the_guideline():
    text = rule.GUIDELINE.read_text()
    for criterion in rule.CRITERIA:
        share = f" ({criterion.points * 10:.0f} %)." if criterion.points > 0 else "."
        assert f"- **{criterion.name}**{share} " in text


def _good_reply(letter: world.Letter) -> str:
    situation = BY_KEY[letter.situation]
    reply = f"{situation.hears[0]} {situation.steps[1]} {CLOSES[0]}\n\nJune"
    return reply.format_map(letter.facts)
