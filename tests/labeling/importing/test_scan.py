"""Tests of the scan's accuracy on a small labelled list."""

import time

import pytest

from labeling.importing.scan import identity_leak, scan, truncation
from labeling.models import Finding

LEAKS = [
    "As an AI language model developed by OpenAI, I do not have personal opinions.",
    "I'm sorry, but as a large language model trained by Google, I cannot browse the web.",
    "I am ChatGPT, and I am happy to help you plan the trip.",
    "I’m Claude, an AI assistant made by Anthropic. How can I help?",
    "Hello! My name is Claude.",
    "Sure. I'm an AI assistant called Qwen, so I have no body.",
    "I was created by Anthropic to be helpful, harmless and honest.",
    "I am a large language model, trained by Mistral AI, and my knowledge ends in 2023.",
    "Good question. As ChatGPT, I cannot feel hunger.",
    "I am GPT-4, so I can read images as well.",
    "My creators at DeepMind did not tell me.",
    "You are talking to Gemini, a language model.",
    "I'm Gemini, your AI assistant.",
    "I am Open Assistant, a chat-based assistant.",
    "Ich bin ChatGPT, ein Sprachmodell.",
    "Je suis ChatGPT et je peux vous aider.",
    "我是由OpenAI训练的语言模型。",
    "OpenAI trained me on a large body of text.",
    "I'm DeepSeek-V3, a model with many experts.",
    "I am Llama 3, and my weights are open.",
]
NO_LEAKS = [
    "ChatGPT is a chatbot developed by OpenAI, and Claude is one by Anthropic.",
    "As an AI language model, I cannot have an opinion on that.",
    "I am an AI assistant, so I do not eat.",
    "You can ask ChatGPT, or use the API of OpenAI.",
    "I am Claude Monet, and I paint the lilies of my garden.",
    "I am a Gemini, and my sister is a Leo.",
    'He laughed. "I am ChatGPT," said the parrot.',
    "Write: “As an AI language model developed by OpenAI, I cannot do that.” and send it.",
    "> I am ChatGPT, a language model.\n\nThe quoted line is a typical introduction.",
    "```\nprint('I am ChatGPT')\n```\nThis prints a line.",
    "My name is Ada and I work with Claude, my neighbour.",
    "I was trained by Google as an engineer before I wrote this book.",
    "The llama is an animal. I am fond of it.",
    "Copilot and Gemini compete; I would choose by price.",
    "As Claude said, the painter should rest.",
    "I think Grok was developed by xAI, but I am not sure.",
    "If I were ChatGPT, I would answer the same.",
    "Microsoft built its assistant on a model by OpenAI.",
    "The mistral is a wind in the south of France.",
    "I am glad that Google made this tool.",
]

WHOLE_STORY = (
    "The harbour was quiet in the morning. Two boats came in with the tide, and the men on board "
    "waved at the children. Nobody knew what they had brought. The crates were heavy, and it took "
    "until noon to carry them up the hill. "
) * 4
CUT = [
    "The most important thing to remember when you start is that the",
    "To make a good soup you need onions, carrots, celery,",
    "First, install the package. Then open the file and look for the line that begins with",
    "Here is the function:\n\n```python\ndef area(width, height):\n    return width",
    WHOLE_STORY + "In the evening they opened the first crate and foun",
    WHOLE_STORY + "In the evening they opened the first",
    "1. Wash your hands with soap every day.\n2. Eat an apple when you are hungry.\n"
    "3. Sleep for eight hours each night.\n4. Go for a walk in the par",
    "There are three kinds of these machines, and each of them has its use (for example in",
    "The recipe calls for two eggs, a cup of flour and",
    "Dear Sir, I am writing to you because of the",
]
WHOLE = [
    "The capital of France is Paris",
    "Yes",
    "Roses are red\nViolets are blue\nSugar is sweet\nAnd so are you",
    "The answer is 42.",
    WHOLE_STORY.strip(),
    "Here is the function:\n\n```python\nprint(1)\n```",
    "- milk\n- bread\n- two apples and a pear",
    "Dear Ada,\n\nthank you for the letter. I will come on Friday.\n\nBest regards,\nBob",
    "Thank you for the invitation. I shall be glad to come and see you all there.\n\nSincerely,",
    "You find more about it at https://example.org/a/long/page/about/this/very/thing",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "What a day! Nothing went wrong, and the sun came out for us all. #happy #sunny",
    "那是一个安静的早晨，两艘船随着潮水驶入港口，船上的人向孩子们挥手，没有人知道他们带来了什么。",
    "Use the flag `--force` to overwrite the file that is already there and then run `make all`",
    "That is the one thing which all of us have always been waiting for",
]


def rates(test, positives, negatives):
    hits, alarms = [t for t in positives if test(t)], [t for t in negatives if test(t)]
    return len(hits) / (len(hits) + len(alarms)), len(hits) / len(positives)


def test_leaks_are_found_and_talk_about_models_is_not():
    precision, recall = rates(identity_leak, LEAKS, NO_LEAKS)
    assert precision >= 0.95 and recall >= 0.9, (precision, recall)


def test_truncated_texts_are_found_and_complete_ones_are_not():
    precision, recall = rates(lambda text: truncation(text, {}), CUT, WHOLE)
    assert precision >= 0.9 and recall >= 0.9, (precision, recall)


@pytest.mark.parametrize("text", [*NO_LEAKS, *WHOLE])
def test_harmless_texts_have_no_findings(text):
    assert scan(text) == []


def test_a_finding_shows_the_matching_words():
    [result] = scan("Sure!\nHere you are. I am ChatGPT, and I like tea. More follows here.")
    assert result.kind == Finding.Kind.IDENTITY
    assert result.excerpt.startswith("I am ChatGPT, and I like tea")


def test_the_projects_names_of_models_are_found():
    assert scan("Hello, I am lampkin-7b and I sell lamps.", model="shops/lampkin-7b")
    assert not scan("The model lampkin-7b sells lamps.", model="shops/lampkin-7b")
    assert not scan("I am human after all.", model="human")


@pytest.mark.parametrize(
    "sampling",
    [{"truncated": True}, {"finish_reason": "length"}, {"tokens": 64, "max_new_tokens": 64}],
)
def test_the_samplers_finish_reason_is_trusted(sampling):
    [result] = scan("All is said.", sampling=sampling)
    assert result.kind == Finding.Kind.TRUNCATED
    assert not scan(
        "All is said.", sampling={"truncated": False, "tokens": 3, "max_new_tokens": 64}
    )


def test_a_missing_final_full_stop_is_accepted():
    text = WHOLE_STORY + "In the evening they opened the first crate and went to bed"
    assert scan(text, model="some-7b") and not scan(text, model="human")


def test_long_or_hostile_texts_are_scanned_quickly():
    began = time.process_time()
    for text in ("I am " * 200_000, "As an AI " * 100_000, "(" * 500_000, "`" * 500_000, '"' * 500_000,
                 "openai " + "I am an AI model, developed " * 50_000, "word " * 400_000):  # fmt: skip
        scan(text, model="some-7b")
    assert time.process_time() - began < 3
