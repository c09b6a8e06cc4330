"""Tests of verdicts and corrections: which rankings they become, and when they are refused."""

import pytest

from finetune.chat import conversations, votes
from finetune.chat.conversations import CannotChat
from finetune.models import Reply, Side, Turn
from labeling.models import Prompt, Ranking, Slot, Task
from labeling.queue import slots
from recipes.preferences.groups import read_groups
from reward.preferences.filters import SnapshotFilter
from reward.preferences.snapshots import freeze, survey
from tests.finetune.chat.conversing import asked, publish_guideline, start
from tests.finetune.factory import make_base
from tests.reward.factory import join, make_task, make_user, rank

pytestmark = pytest.mark.django_db


@pytest.fixture
def lead(people):
    return people["lead"]


@pytest.fixture
def pair(project, lead):
    """Return a conversation with two models, whose project has a guideline."""
    publish_guideline(project, lead)
    return start(lead, make_base(project), make_base(project))


@pytest.mark.parametrize(
    ("verdict", "texts", "cut"),
    [
        ("left", [["Yes."], ["No."]], None),
        ("right", [["No."], ["Yes."]], None),
        ("tie", [["Yes.", "No."]], None),
        ("both_bad", [["Yes.", "No."]], 0),
    ],
)
def test_a_verdict_becomes_a_ranking(pair, lead, verdict, texts, cut):
    turn = asked(pair)
    ranking = votes.vote(turn, verdict, lead)
    text_of = {r.pk: r.text for r in ranking.task.responses.all()}
    assert [[text_of[pk] for pk in tier] for tier in ranking.tiers] == texts
    assert (ranking.cut, ranking.source, ranking.reviewer) == (cut, Ranking.Source.CHAT, lead)
    assert [text_of[pk] for pk in ranking.shown_order] == ["Yes.", "No."]
    assert ranking.guideline_version == pair.project.current_version or ranking.guideline_version
    models = {r.text: r.model_name for r in ranking.task.responses.all()}
    assert models == {"Yes.": pair.left.name, "No.": pair.right.name}


def test_the_prompt_is_the_chat_that_both_models_read(project, lead):
    publish_guideline(project, lead)
    pair = start(lead, make_base(project), make_base(project), system_prompt="Be brief.")
    votes.vote(asked(pair, "One?", ("Left one.", "Right one.")), "right", lead)
    ranking = votes.vote(asked(pair, "Two?", ("Left two.", "Right two.")), "left", lead)
    assert ranking.task.prompt.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Right one."},
        {"role": "user", "content": "Two?"},
    ]


def test_reviewers_never_get_the_task_of_a_verdict(pair, lead, project):
    votes.vote(asked(pair), "left", lead)
    reviewer = make_user()
    join(project, reviewer)
    assert slots.claim(project=project, reviewer=reviewer) is None
    assert not Slot.objects.filter(ranking=None).exists()


def test_the_same_verdict_again_changes_nothing(pair, lead):
    turn = asked(pair)
    assert votes.vote(turn, "left", lead) == votes.vote(turn, "left", lead)
    with pytest.raises(CannotChat, match="cannot be changed"):
        votes.vote(turn, "right", lead)
    assert Ranking.objects.count() == 1


def test_a_verdict_needs_two_complete_different_answers_and_hidden_names(pair, lead, project):
    single = start(lead, pair.left)
    with pytest.raises(CannotChat, match="has one model"):
        votes.vote(asked(single), "left", lead)
    with pytest.raises(CannotChat, match="Both answers are the same"):
        votes.vote(asked(pair, answers=("Same.", "Same.")), "tie", lead)
    turn = asked(pair)
    with pytest.raises(CannotChat, match="one of the four"):
        votes.vote(turn, "middle", lead)
    Reply.objects.filter(turn=turn, side=Side.RIGHT).update(ending=Reply.Ending.STOPPED)
    with pytest.raises(CannotChat, match="must be complete"):
        votes.vote(turn, "left", lead)
    conversations.reveal(pair)
    with pytest.raises(CannotChat, match="would not be blind"):
        votes.vote(asked(pair), "left", lead)
    assert not Ranking.objects.exists()


def test_a_verdict_needs_a_published_guideline(project, lead):
    turn = asked(start(lead, make_base(project), make_base(project)))
    with pytest.raises(CannotChat, match="no published guideline"):
        votes.vote(turn, "left", lead)
    assert not Task.objects.exists() and not Prompt.objects.exists()


def test_a_correction_is_preferred_over_the_original(pair, lead):
    turn = asked(pair, answers=("Yes.", "No."))
    ranking = votes.correct(turn.replies()["right"], "Certainly not.", lead)
    text_of = {r.pk: (r.text, r.model_name) for r in ranking.task.responses.all()}
    assert [text_of[pk] for [pk] in ranking.tiers] == [
        ("Certainly not.", votes.PERSON),
        ("No.", pair.right.name),
    ]
    with pytest.raises(CannotChat, match="corrected already"):
        votes.correct(turn.replies()["right"], "Another.", lead)
    with pytest.raises(CannotChat, match="Change the answer first"):
        votes.correct(turn.replies()["left"], "Yes. ", lead)


def test_the_chat_continues_with_the_correction(pair, lead):
    turn = asked(pair)
    votes.correct(turn.replies()["left"], "Yes, of course.", lead)
    following = conversations.ask(pair, "Why?")
    assert conversations.chat_before(following)[1]["content"] == "Yes, of course."


def test_reviewers_get_the_task_of_a_queued_turn(pair, lead, project):
    turn = asked(pair)
    task = votes.queue_for_reviewers(turn, rankings_wanted=2)
    assert Slot.objects.filter(task=task, ranking=None).count() == 2
    turn.refresh_from_db()
    assert turn.task == task
    with pytest.raises(CannotChat, match="already a task"):
        votes.queue_for_reviewers(turn)


def test_rankings_from_chats_are_never_held_out(pair, lead, project):
    for number in range(12):
        votes.vote(asked(pair, f"Question {number}?", (f"a{number}", f"b{number}")), "left", lead)
    held_out = SnapshotFilter(test_fraction=0.9)
    snapshot = freeze(project=project, filter=held_out, by=lead)
    assert {group.split for group in read_groups(snapshot.file)} == {"train"}
    assert snapshot.counts["sources"] == {"chat": 12}


def test_a_held_out_prompt_keeps_only_the_rankings_of_reviewers(pair, lead, project):
    ranking = votes.vote(asked(pair), "left", lead)
    others = make_task(ranking.task.prompt, ("x", "y", "z"))
    rank(others, make_user())
    account = survey(
        project=project, filter=SnapshotFilter(test_fraction=0.9, seed=seed_of(ranking))
    )
    assert account.left_out == {"chat_held_out": 1}
    assert account.used == 1
    everything = survey(project=project, filter=SnapshotFilter(test_fraction=0.0))
    assert everything.used == 2


def seed_of(ranking: Ranking) -> int:
    """Return a seed with which the prompt of the ranking is held out."""
    digest = ranking.task.prompt.content_hash
    return next(
        s for s in range(99) if SnapshotFilter(test_fraction=0.9, seed=s).split_of(digest) == "test"
    )


def test_deleting_a_chat_keeps_its_rankings(pair, lead):
    votes.vote(asked(pair), "left", lead)
    conversations.delete(pair, lead)
    assert not Turn.objects.exists()
    assert Ranking.objects.count() == 1


def test_a_message_is_refused_if_it_is_empty_too_long_or_unanswered(pair):
    for text, reason in (("  ", "Write a message"), ("x" * 16_001, "16,001 characters")):
        with pytest.raises(CannotChat, match=reason):
            conversations.ask(pair, text)
    conversations.ask(pair, "Hello?")
    with pytest.raises(CannotChat, match="no answer yet"):
        conversations.ask(pair, "Again?")
    assert Turn.objects.count() == 1
