"""Tests of the pages of chats: who may see them, what they show, and what erasing removes."""

import pytest
from django.urls import reverse

from finetune.chat import conversations, votes
from finetune.chat.streaming import Question
from finetune.models import Conversation, Reply, Side, Turn
from finetune.removal import deletion, erasing
from labeling.models import Project, Ranking, Task
from labeling.projects import archiving
from tests.finetune.chat.conversing import SAMPLING, asked, publish_guideline, start
from tests.finetune.factory import make_base
from tests.reward.factory import join, make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def lead(people):
    return people["lead"]


@pytest.fixture
def pair(project, lead):
    publish_guideline(project, lead)
    return start(lead, make_base(project, name="alpha"), make_base(project, name="beta"))


@pytest.fixture
def signed_in(client, lead):
    client.force_login(lead)
    return client


def page(client, pair):
    return client.get(reverse("chat", args=[pair.pk])).text


def test_a_form_starts_a_chat_with_two_models(signed_in, project):
    models = [make_base(project), make_base(project)]
    fields = {
        "model": models[0].pk,
        "other": models[1].pk,
        "system_prompt": "Be brief.",
        **SAMPLING,
    }
    reply = signed_in.post(reverse("chats"), fields)
    conversation = Conversation.objects.get()
    assert reply.headers["Location"] == reverse("chat", args=[conversation.pk])
    assert {conversation.left, conversation.right} == set(models)
    assert (conversation.project, conversation.system_prompt) == (project, "Be brief.")


@pytest.mark.parametrize("dtype", ["fast", "float32"])
def test_both_sides_of_a_chat_are_asked_for_the_number_format_of_the_setting(pair, settings, dtype):
    settings.CHAT_DTYPE = dtype
    question = Question.of(conversations.ask(pair, "Hello?"))
    assert [model.dtype for model in question.models.values()] == [dtype, dtype]


def test_the_page_shows_the_number_format_of_an_answer(signed_in, pair):
    turn = conversations.ask(pair, "Hello?")
    stop = Reply.Ending.STOP
    conversations.store_reply(turn, "left", text="Yes.", ending=stop, dtype="int8")
    conversations.store_reply(turn, "right", text="No.", ending=stop)
    assert page(signed_in, pair).count(">int8</abbr>") == 1


def test_chance_decides_the_sides(project, lead):
    models = [make_base(project), make_base(project)]
    lefts = {start(lead, *models).left for _ in range(40)}
    assert lefts == set(models)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"other": "same"}, "Choose another model"),
        ({"other": "elsewhere"}, "Select a valid choice"),
        ({"temperature": "-1"}, "greater than or equal to 0"),
        ({"top_p": "0"}, "greater than or equal to 0.01"),
        ({"max_tokens": "9999999"}, "less than or equal to 4096"),
        ({"system_prompt": "x" * 8001}, "at most 8000"),
    ],
)
def test_the_form_refuses_what_makes_no_sense(signed_in, project, changes, sentence):
    model, elsewhere = make_base(project), make_base(make_project())
    values = {"same": model.pk, "elsewhere": elsewhere.pk}
    fields = {"model": model.pk, **SAMPLING, **{k: values.get(v, v) for k, v in changes.items()}}
    assert sentence in signed_in.post(reverse("chats"), fields).text
    assert not Conversation.objects.exists()


def test_names_are_hidden_until_they_are_revealed(signed_in, pair):
    asked(pair)
    assert "alpha" not in page(signed_in, pair) and "beta" not in page(signed_in, pair)
    assert "alpha" not in signed_in.get(reverse("chats")).text.split("Earlier chats")[1]
    signed_in.post(reverse("reveal-chat", args=[pair.pk]))
    assert "alpha" in page(signed_in, pair) and "beta" in page(signed_in, pair)
    assert 'name="verdict"' not in page(signed_in, pair)


def test_a_vote_without_javascript_returns_to_the_page(signed_in, pair):
    asked(pair)
    address = reverse("vote-in-chat", args=[pair.pk, 1])
    reply = signed_in.post(address, {"verdict": "right"})
    assert reply.headers["Location"] == reverse("chat", args=[pair.pk])
    assert "Verdict: Right is better" in page(signed_in, pair)
    assert Ranking.objects.get().source == Ranking.Source.CHAT


def test_a_refused_vote_is_explained_in_the_turn(signed_in, pair):
    asked(pair, answers=("Same.", "Same."))
    address = reverse("vote-in-chat", args=[pair.pk, 1])
    reply = signed_in.post(address, {"verdict": "left"}, headers={"HX-Request": "true"})
    assert reply.status_code == 422
    assert "Both answers are the same" in reply.text


def test_texts_of_models_are_shown_safely(signed_in, pair):
    asked(pair, "<script>alert(1)</script>", ("<img src=x onerror=alert(1)>", "**bold**"))
    html = page(signed_in, pair)
    assert "<script>alert" not in html and "<img src=x" not in html
    assert "<strong>bold</strong>" in html


def test_a_correction_and_a_queued_turn_appear_on_the_page(signed_in, pair):
    asked(pair)
    fields = {"side": "right", "text": "Certainly not."}
    signed_in.post(reverse("correct-in-chat", args=[pair.pk, 1]), fields)
    signed_in.post(reverse("queue-chat", args=[pair.pk, 1]))
    assert "Certainly not." in page(signed_in, pair)
    assert Task.objects.count() == 2
    assert (
        signed_in.post(reverse("correct-in-chat", args=[pair.pk, 1]), {"side": "up"}).status_code
        == 404
    )


def test_other_leads_read_a_chat_but_do_not_change_it(client, people, pair):
    asked(pair)
    client.force_login(people["trainer"])
    assert "Hello?" in page(client, pair)
    assert 'id="chat-form"' not in page(client, pair)
    for name, args in (
        ("vote-in-chat", [pair.pk, 1]),
        ("reveal-chat", [pair.pk]),
        ("delete-chat", [pair.pk]),
    ):
        assert client.post(reverse(name, args=args), {"verdict": "left"}).status_code == 404
    client.force_login(people["lead_elsewhere"])
    assert client.get(reverse("chat", args=[pair.pk])).status_code == 404
    client.force_login(people["reviewer"])
    assert client.get(reverse("chat", args=[pair.pk])).status_code == 403


def test_the_newest_answer_of_each_side_counts(pair):
    turn = asked(pair)
    conversations.store_reply(turn, Side.LEFT, text="Maybe.", ending=Reply.Ending.STOP)
    assert conversations.turns_of(pair).get().replies()["left"].text == "Maybe."


def test_rated_answers_cannot_be_replaced(pair, lead):
    votes.vote(asked(pair), "left", lead)
    with pytest.raises(conversations.CannotChat, match="have been rated"):
        conversations.turn_to_repeat(pair)


def test_erasing_a_prompt_erases_its_texts_in_chats(pair, lead, admin):
    ranking = votes.vote(asked(pair), "left", lead)
    asked(pair, "Another?", ("One.", "Two."))
    erasing.erase(content=ranking.task.prompt, by=admin)
    texts = [turn.text for turn in Turn.objects.order_by("number")]
    assert texts == [erasing.ERASED, "Another?"]
    assert not Reply.objects.filter(text__in=["Yes.", "No."]).exists()
    assert Reply.objects.filter(text="One.").exists()


def test_erasing_a_person_deletes_their_chats(pair, lead, admin):
    asked(pair)
    erasing.erase_person(user=lead, by=admin)
    assert not Conversation.objects.exists()


def test_withdrawing_a_reviewers_data_deletes_their_chats_in_the_project(pair, lead, admin):
    votes.vote(asked(pair), "left", lead)
    elsewhere = start(lead, make_base(make_project()))
    erasing.withdraw_reviewer(project=pair.project, reviewer=lead, by=admin)
    assert list(Conversation.objects.all()) == [elsewhere]


def test_deleting_a_project_deletes_its_chats(pair, project, admin):
    asked(pair)
    archiving.archive(project=project, by=admin)
    deletion.delete(project=project, by=admin)
    assert not Conversation.objects.exists()


# --- reviewers --------------------------------------------------------------------------------------


@pytest.fixture
def of_reviewer(people, pair):
    return start(people["reviewer"], pair.left, pair.right)


def statuses_of(client, chat):
    """Return the status of each page of a chat: those that are read, then those that change it."""
    turn = [chat.pk, 1]
    read = [reverse("chat", args=[chat.pk]), reverse("chat-turn", args=turn)]
    change = [
        ("vote-in-chat", turn, {"verdict": "left"}),
        ("correct-in-chat", turn, {"side": "left", "text": "Better."}),
        ("queue-chat", turn, {}),
        ("reveal-chat", [chat.pk], {}),
        ("delete-chat", [chat.pk], {}),
    ]
    return [client.get(address).status_code for address in read] + [
        client.post(reverse(name, args=args), fields).status_code for name, args, fields in change
    ]


def test_reviewers_cannot_chat_unless_the_project_allows_it(client, people, of_reviewer):
    asked(of_reviewer)
    client.force_login(people["reviewer"])
    assert statuses_of(client, of_reviewer) == [403] * 7
    assert client.get(reverse("chats")).status_code == 403
    fields = {"model": of_reviewer.left_id, **SAMPLING}
    assert client.post(reverse("chats"), fields).status_code == 403
    assert Conversation.objects.count() == 2 and not Ranking.objects.exists()


def test_reviewers_chat_and_rate_in_their_own_chats_if_the_project_allows_it(
    client, people, project, pair, of_reviewer
):
    asked(pair, "Secret?")
    asked(of_reviewer)
    Project.objects.filter(pk=project.pk).update(reviewers_chat=True)
    client.force_login(people["reviewer"])
    assert statuses_of(client, pair) == [404] * 7
    rows = client.get(reverse("chats")).text
    assert "Hello?" in rows and "Secret?" not in rows
    shown = page(client, of_reviewer)
    assert 'id="chat-form"' in shown and "Have reviewers rank this" not in shown
    assert client.post(reverse("queue-chat", args=[of_reviewer.pk, 1])).status_code == 404
    client.post(reverse("vote-in-chat", args=[of_reviewer.pk, 1]), {"verdict": "left"})
    ranking = Ranking.objects.get()
    assert (ranking.reviewer, ranking.source) == (people["reviewer"], Ranking.Source.CHAT)
    assert f"/tasks/{ranking.task_id}/" not in page(client, of_reviewer)
    client.post(reverse("chats"), {"model": pair.left_id, **SAMPLING})
    assert Conversation.objects.latest("pk").user == people["reviewer"]
    client.force_login(people["lead"])
    assert "Hello?" in page(client, of_reviewer), "leads see what was asked"


def test_reviewers_choose_only_from_the_models_of_projects_that_allow_it(
    client, people, project, pair
):
    Project.objects.filter(pk=project.pk).update(reviewers_chat=True)
    other = make_project()
    join(other, people["reviewer"])
    hidden = make_base(other, name="of another project")
    client.force_login(people["reviewer"])
    assert hidden.name not in client.get(reverse("chats")).text
    client.post(reverse("chats"), {"model": hidden.pk, **SAMPLING})
    assert not Conversation.objects.filter(left=hidden).exists()
    client.force_login(make_user())
    assert client.get(reverse("chats")).status_code == 403, "a reviewer of no project"


def test_the_project_page_links_the_chats_for_reviewers_who_may_chat(client, people, project, pair):
    client.force_login(people["reviewer"])
    address = reverse("project", args=[project.slug])
    assert "Chat with the project’s models" not in client.get(address).text
    Project.objects.filter(pk=project.pk).update(reviewers_chat=True)
    assert "Chat with the project’s models" in client.get(address).text


def test_the_chat_pages_are_in_german_too(client, people, project, of_reviewer):
    asked(of_reviewer)
    Project.objects.filter(pk=project.pk).update(reviewers_chat=True)
    client.force_login(people["reviewer"])
    client.cookies["django_language"] = "de"
    shown = page(client, of_reviewer)
    assert "Links ist besser" in shown and "Nachricht schreiben" in shown
    reply = client.post(
        reverse("vote-in-chat", args=[of_reviewer.pk, 1]),
        {"verdict": "up"},
        headers={"HX-Request": "true"},
    )
    assert "Wählen Sie eines der vier Urteile." in reply.text
