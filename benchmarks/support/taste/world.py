"""A world of invented words: prompts, a taste with distinct true scores, noisy rankings and a base model.

A prompt asks for words for an asker, with two topics. The base model answers with random words. The
true score of an answer is a rule on its words and depends on the asker and on the topics, so a model
has to read the prompt. The score is in units of Bradley-Terry noise: a reviewer prefers an answer that
is better by d with the odds e^d.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from benchmarks.ceiling import vocabulary
from finetune.engines.engine import Sampled
from finetune.engines.sampled_text import Prompt
from finetune.settings import SamplingConfig
from finetune.training import tiny_model
from finetune.training.models.language_model import load_policy, load_tokenizer
from finetune.training.sampling.requests import plan
from finetune.training.sampling.seeded import sample_batch
from recipes.models.chat_options import ChatOptions
from recipes.preferences.groups import RESPONSES_CUT_OFF, Group, Judgment

ASKERS = ("gardener", "sailor", "baker", "painter")
WORDS = tuple(vocabulary())
VALUE, OWN_VALUE = 0.7, 0.35
"""Standard deviation of a word's value to all askers, and of what each asker adds to it."""
TOPIC, REPEATED, LONG = 1.0, 0.5, 0.3
"""Points per topic, per repetition and per word too many."""
LENGTH = 8
"""Words of an answer before each further word costs LONG points."""
LONGEST = 24
"""Tokens after which an answer is cut off."""


# --- prompts and their taste ----------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A prompt: the index of its asker, and its two topics."""

    name: str
    asker: int
    topics: tuple[str, str]

    @property
    def messages(self) -> list[dict[str, str]]:
        first, second = self.topics
        return [{"role": "user", "content": f"Words for a {ASKERS[self.asker]}: {first} {second}"}]


@dataclass(frozen=True)
class Taste:
    """The value of each word to each asker, (askers, words)."""

    values: np.ndarray

    def score(self, question: Question, answer: str) -> float:
        """Return the true score: the values of the different words, plus and minus the other points.

        An undistinct word counts like a repetition.
        """
        words = answer.split()
        distinct = {word for word in words if word in WORDS}
        value = sum(self.values[question.asker, WORDS.index(word)] for word in sorted(distinct))
        topics = len(distinct & set(question.topics))
        surplus = max(0, len(words) - LENGTH)
        points = TOPIC * topics - REPEATED * (len(words) - len(distinct)) - LONG * surplus
        return float(value + points)


def make_taste(rng: np.random.Generator) -> Taste:
    """Return a taste in which the words are worth 0 on average, so that length is worth nothing."""
    common = rng.normal(size=len(WORDS)) * VALUE
    return Taste(common - common.mean() + rng.normal(size=(len(ASKERS), len(WORDS))) * OWN_VALUE)


def make_questions(rng: np.random.Generator, count: int, prefix: str) -> list[Question]:
    """Return questions, with names that begin with the prefix."""
    return [
        Question(
            f"{prefix}-{number}",
            int(rng.integers(len(ASKERS))),
            (WORDS[first], WORDS[second]),
        )
        for number in range(count)
        for first, second in [rng.choice(len(WORDS), size=2, replace=False).tolist()]
    ]


# --- reviewers ------------------------------------------------------------------------------------


def rank(
    scores: Sequence[float], line: float, tie_width: float, rng: np.random.Generator
) -> tuple[list[list[int]], int]:
    """Return a ranking as tiers of indices, best first, and the number of tiers above the line.

    The tiers are drawn one by one from the responses that have none. A tier S has a probability proportional to
    ν^(|S| - 1) · exp(mean score of S): the Davidson-Luce model (Firth, Kosmidis & Turner 2019,
    arXiv:1902.07317). For two responses, this is Davidson's model with the width ν, and without ties
    it is the Plackett-Luce model. The line is an item with a score of its own that ties with nothing.
    """
    candidates, tiers = [*range(len(scores)), -1], list[list[int]]()  # -1 is the line
    cut: int | None = None
    values = [*scores, line]
    while candidates:
        sizes = range(1, len(candidates) + 1 if tie_width else 2)
        sets = [
            s for size in sizes for s in combinations(candidates, size) if -1 not in s or size == 1
        ]
        logits = np.array(
            [np.mean([values[i] for i in s]) + (len(s) - 1) * np.log(tie_width or 1) for s in sets]
        )
        odds = np.exp(logits - logits.max())
        tier = sets[rng.choice(len(sets), p=odds / odds.sum())]
        if tier == (-1,):
            cut = len(tiers)
        else:
            tiers.append(list(tier))
        candidates = [i for i in candidates if i not in tier]
    return tiers, len(tiers) if cut is None else cut


def ranked(
    answers: dict[str, list[Sampled]],
    questions: Iterable[Question],
    taste: Taste,
    tie_width: float,
    rng: np.random.Generator,
) -> list[Group]:
    """Return the different answers to each question, ranked by one reviewer.

    The line is at the mean true score of all answers. Questions with a single answer are left out.
    """
    rows, scores = [], []
    for question in questions:
        different = {answer.text: answer for answer in answers[question.name] if answer.text}
        rows.append((question, list(different.values())))
        scores.append([taste.score(question, text) for text in different])
    line = float(np.mean([score for row in scores for score in row]))
    groups = []
    for (question, row), values in zip(rows, scores, strict=True):
        if len(row) < 2:
            continue
        tiers, cut = rank(values, line, tie_width, rng)
        groups.append(
            Group(
                question.name,
                question.messages,
                list(range(len(row))),
                [answer.text for answer in row],
                [Judgment("reviewer", tiers, cut)],
                meta={RESPONSES_CUT_OFF: [answer.truncated for answer in row]},
            )
        )
    return groups


# --- the base model -------------------------------------------------------------------------------


def make_base(folder: Path, steps: int) -> Path:
    """Train the base model into the folder if it is empty: random words, some of them on topic.

    The model and its texts depend on no seed of the study. Each asker has frequent and rare words,
    so that the model reads the asker.
    """
    if (folder / "tokenizer.json").exists():
        return folder
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    frequency = np.exp(0.7 * rng.normal(size=(len(ASKERS), len(WORDS))))
    frequency /= frequency.sum(axis=1, keepdims=True)
    chats = [
        [
            *question.messages,
            {"role": "assistant", "content": random_answer(question, frequency, rng)},
        ]
        for question in make_questions(rng, 16 * steps, "base")
    ]
    tokenizer = tiny_model.train_tokenizer(chats, vocab_size=512)
    model = tiny_model.new_model(tokenizer, hidden=128, layers=2)
    examples = [tiny_model.encode(tokenizer, chat) for chat in chats]
    tiny_model.train(model, examples, steps=steps, seconds=float("inf"), seed=0)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # last, because its file says that the folder is complete
    return folder


def random_answer(question: Question, frequency: np.ndarray, rng: np.random.Generator) -> str:
    """Return 3 to 12 words. Each topic is among them with a probability of 0.3."""
    words = rng.choice(WORDS, size=rng.integers(3, 13), p=frequency[question.asker]).tolist()
    for topic in question.topics:
        if rng.random() < 0.3:
            words[int(rng.integers(len(words)))] = topic
    return " ".join(words)


# --- answers --------------------------------------------------------------------------------------


class Policy:
    """The base model, or an adapter on it, for sampling and scoring."""

    def __init__(self, base: Path, adapter: Path | None = None):
        tokenizer = load_tokenizer(str(base))
        name = str(adapter) if adapter else None
        self.model, self.chat = load_policy(str(base), name, "float32", tokenizer, ChatOptions())

    def answers(
        self, questions: Sequence[Question], each: int, seed: int
    ) -> dict[str, list[Sampled]]:
        """Return `each` answers to each question. All models use the same random numbers."""
        config = SamplingConfig(
            samples_per_prompt=each, top_p=1.0, max_new_tokens=LONGEST, seed=seed
        )
        prompts = [Prompt(question.name, question.messages) for question in questions]
        requests, _ = plan(prompts, self.chat, self.model.config, config)
        rows: dict[str, list[Sampled]] = {question.name: [] for question in questions}
        for answer in sample_batch(self.model, self.chat, requests, config):
            rows[answer.prompt_id].append(answer)
        return rows

    def divergence(
        self, reference: "Policy", questions: Sequence[Question], answers: dict[str, list[Sampled]]
    ) -> float:
        """Return the mean divergence KL(π ‖ π_ref) per answer of this model, in nats."""
        ours, counted = self._next_tokens(questions, answers)
        return mean_divergence(ours, reference._next_tokens(questions, answers)[0], counted)

    @torch.no_grad()
    def _next_tokens(
        self, questions: Sequence[Question], answers: dict[str, list[Sampled]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log π of all next tokens, (B, T - 1, V), and which belong to an answer or its end."""
        rows, starts = [], []
        for question in questions:
            row = answers[question.name]
            encoded = self.chat.read(
                question.messages, [a.text for a in row], [a.truncated for a in row]
            )
            rows += [[*encoded.prompt.tolist(), *ids.tolist()] for ids in encoded.responses]
            starts += [len(encoded.prompt)] * len(row)
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # (B, T)
        logp = self.model(input_ids=tokens[:, :-1]).logits.log_softmax(dim=-1)
        index = torch.arange(1, longest)  # of the predicted token
        ends = torch.tensor([len(row) for row in rows])
        counted = (index >= torch.tensor(starts)[:, None]) & (index < ends[:, None])
        return logp, counted


def mean_divergence(ours: torch.Tensor, theirs: torch.Tensor, counted: torch.Tensor) -> float:
    """Return the mean KL divergence per answer, in nats, from log π of next tokens, (B, T, V).

    It is the sum of the divergences at the counted tokens, (B, T). This estimate is less noisy than
    log π - log π_ref of the answers, and it is never negative.
    """
    of_tokens = (ours.exp() * (ours - theirs)).sum(dim=-1)  # (B, T)
    return float((of_tokens * counted).sum(dim=1).double().mean())
