import json
from itertools import islice

from demo import rule, shop, world
from demo.build_model import write_texts
from demo.situations import SITUATIONS


def test_the_same_seed_gives_the_same_letters():
    assert world.prompts(50, seed=7) == world.prompts(50, seed=7)
    assert world.prompts(50, seed=7) != world.prompts(50, seed=8)


def test_the_same_seed_gives_the_same_training_texts(tmp_path):
    for name in ("one", "two"):
        write_texts(tmp_path / name, count=200, seed=1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert len((tmp_path / "one").read_text().splitlines()) == 200
    assert json.loads((tmp_path / "one").read_text().splitlines()[0])["messages"]


def test_letters_are_unique_and_cover_every_situation():
    letters = world.prompts(1500, seed=0)
    assert len({letter.messages[-1]["content"] for letter in letters}) == 1500
    assert {letter.situation for letter in letters} == {situation.key for situation in SITUATIONS}


def test_training_texts_contain_no_letter_of_the_demo():
    letters = {letter.messages[0]["content"] for letter in world.prompts(1500, seed=0)}
    trained = {text["messages"][0]["content"] for text in world.texts(5000, seed=0)}
    single = {letter.messages[0]["content"] for letter in world.prompts(1500, seed=0) if len(letter.messages) == 1}  # fmt: skip
    assert letters
    assert not single & trained


def test_all_fields_are_filled_and_chats_end_with_a_reply():
    for text in world.texts(3000, seed=2):
        assert [m["role"] for m in text["messages"]][-2:] == ["user", "assistant"]
        assert all("{" not in m["content"] and m["content"].strip() for m in text["messages"])


def test_letters_and_replies_are_short():
    texts = list(world.texts(3000, seed=4))
    assert max(len(t["messages"][0]["content"].split()) for t in texts) <= 60
    lengths = sorted(len(t["messages"][-1]["content"].split()) for t in texts)
    assert lengths[int(0.95 * len(lengths))] <= 70


def test_every_sentence_of_every_situation_can_be_filled():
    facts = world.prompts(1, seed=0)[0].facts
    for situation in SITUATIONS:
        parts = (situation.letters, situation.hears, situation.steps, situation.extras)
        for sentence in (*sum(parts, ()), *situation.blames):
            assert "{" not in sentence.format_map(facts)


def test_no_customer_has_the_name_of_an_employee():
    assert not set(shop.NAMES) & {*shop.STAFF, *shop.DAYS, *shop.MONTHS}


def test_replies_differ_widely_in_quality():
    scores = [
        rule.score(text["messages"][:-1], text["messages"][-1]["content"])
        for text in islice(world.texts(1500, seed=5), 1500)
    ]
    bad, good = sum(s < 2 for s in scores), sum(s > 7 for s in scores)
    assert 3 < sum(scores) / len(scores) < 5.5
    assert bad > 300
    assert good > 200
