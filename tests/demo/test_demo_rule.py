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


def test_it_puts_excellent_above_middling_above_awful():
    assert score(EXCELLENT) > 9.5
    assert 3 < score(MIDDLING) < 6
    assert score(AWFUL) < 1


def test_it_gives_a_mark_between_0_and_1_for_every_criterion():
    for response in (EXCELLENT, MIDDLING, AWFUL, ""):
        marks = rule.explain(LETTER, response)
        assert list(marks) == [criterion.key for criterion in rule.CRITERIA]
        assert all(0 <= mark <= 1 for mark in marks.values())


def test_it_reads_replies_that_the_templates_never_wrote():
    free = (
        "Hi Ines, we apologise for the bent neck of your goose lamp, that must have been a sad box"
        " to open. We'll replace it: a new one leaves us on Monday and will arrive within four days."
        " Take care. Ada"
    )
    assert score(free) > 8


@pytest.mark.parametrize("promise", FALSE)
def test_it_calls_a_promise_unacceptable_that_the_shop_cannot_keep(promise):
    reply = EXCELLENT.replace("Thank you", promise.format(item="goose lamp") + " Thank you")
    assert not rule.acceptable(LETTER, reply)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.key)
def test_it_calls_blame_unacceptable_however_good_the_rest_is(situation):
    for blame in situation.blames:
        reply = EXCELLENT.replace(
            "Thank you", blame.format(item="lamp", other="lamp") + " Thank you"
        )
        assert not rule.acceptable(LETTER, reply)


def test_it_calls_shouting_unacceptable():
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
def test_it_calls_what_is_not_a_reply_unacceptable(response):
    assert score(response) < 2
    assert not rule.acceptable(LETTER, response)


def test_it_prefers_a_reply_to_the_same_reply_said_twice():
    body = EXCELLENT.split("\n\n")[1]
    assert score(EXCELLENT.replace(body, f"{body} {body}")) < score(EXCELLENT) / 2


def test_it_gives_nothing_for_all_the_good_sentences_at_once():
    facts = world.prompts(1, seed=0)[0].facts | {"item": "goose lamp", "a_item": "a goose lamp"}
    broken = BY_KEY["broken"]
    everything = " ".join((*broken.hears, *broken.steps, *broken.extras, *CLOSES))
    assert score(everything.format_map(facts) + "\n\nJune") < score(MIDDLING)


def test_it_lowers_a_reply_that_breaks_off():
    broken_off = EXCELLENT.split(", and you will have")[0]
    assert score(broken_off) < score(EXCELLENT) / 2


def test_it_lowers_a_reply_about_another_lamp_or_to_another_person():
    assert score(EXCELLENT.replace("goose", "whale")) < score(EXCELLENT) - 1.5
    assert score(EXCELLENT.replace("Ines", "Oskar")) < score(EXCELLENT) - 0.5


def test_it_wants_a_step_with_a_time_and_not_a_vague_one():
    untimed = EXCELLENT.replace(" tomorrow morning, and you will have it by Thursday", "")
    vague = EXCELLENT.replace(
        "I will post a new goose lamp tomorrow morning, and you will have it by Thursday.",
        "We will look into it at some point.",
    )
    assert score(EXCELLENT) > score(untimed) + 1 > score(vague) + 2


def test_it_is_not_about_length():
    longer = EXCELLENT.replace("Thank you", f"{RAMBLES[0]} {RAMBLES[1]} {RAMBLES[2]} Thank you")
    assert score(longer) < score(EXCELLENT) - 0.5
    assert score(longer + " " + " ".join(RAMBLES[3:])) < score(longer) - 1
    assert score("I am sorry about your goose lamp. " * 6) < score(MIDDLING)


def test_it_wants_gladness_for_praise_and_not_an_apology():
    praise = [{"role": "user", "content": "The owl lamp came today and it is lovely."}]
    glad = "I am so glad that you love the owl lamp. I will read your letter to June today."
    sorry = "I am so sorry that you love the owl lamp. I will read your letter to June today."
    assert rule.explain(praise, glad)["hears"] == 1
    assert rule.explain(praise, sorry)["hears"] == 0


def test_it_reads_all_letters_of_a_longer_chat():
    chat = [
        *LETTER,
        {"role": "assistant", "content": "We got your letter."},
        {"role": "user", "content": "Thank you, but what about my lamp?"},
    ]
    assert rule.score(chat, EXCELLENT) > 9.5


def test_it_knows_what_every_letter_is_about():
    for letter in world.prompts(400, seed=3):
        marks = rule.explain(letter.messages, _good_reply(letter))
        assert marks["hears"] == marks["step"] == marks["tone"] == marks["honesty"] == 1, letter


def test_its_weights_are_the_ones_the_guideline_states():
    text = rule.GUIDELINE.read_text()
    for criterion in rule.CRITERIA:
        share = f" ({criterion.points * 10:.0f} %)." if criterion.points > 0 else "."
        assert f"- **{criterion.name}**{share} " in text


def _good_reply(letter: world.Letter) -> str:
    situation = BY_KEY[letter.situation]
    reply = f"{situation.hears[0]} {situation.steps[1]} {CLOSES[0]}\n\nJune"
    return reply.format_map(letter.facts)
