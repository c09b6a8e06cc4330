"""Test of the path from a registered evaluation to a vote in a chat, with all real servers."""

import shutil

import pytest
from playwright.sync_api import Page, expect

from accounts.models import Role
from finetune.models import Conversation, Evaluation, Model
from finetune.registry import add_base
from labeling.models import Project, Slot
from labeling.queue.slots import OFF_QUEUE
from recipes.preferences.groups import read_groups
from reward.models import Snapshot
from reward.preferences.snapshots import SnapshotFilter, freeze
from tests.browser.reviewing.desk import press, slot_shown
from tests.finetune.factory import make_adapter
from tests.labeling.world import make_member, make_project, make_user
from tests.reward.factory import make_prompt, make_task, rank
from tests.worker import celery_worker, runs_dir, wait_until

__all__ = ["celery_worker", "runs_dir"]

pytestmark = [
    pytest.mark.torch,
    pytest.mark.processes,
    pytest.mark.django_db(transaction=True),
]
MINUTE = 60_000
PROMPTS = 14
"""Prompts of the evaluation. About eleven wins in a row are enough evidence."""


def snapshot_of(project: Project) -> Snapshot:
    """Freeze rankings of 32 prompts, of which most are held out."""
    reviewer = make_user()
    for number in range(32):
        rank(make_task(make_prompt(project, f"Spell word {number}.")), reviewer)
    return freeze(project=project, filter=SnapshotFilter(test_fraction=0.7), by=None)


def prefer_candidate(page: Page, evaluation: Evaluation) -> None:
    """Rank the comparison on the page with the keyboard, the candidate's answer first."""
    slot = Slot.objects.get(pk=slot_shown(page))
    item = evaluation.items.get(task=slot.task)
    texts = dict(slot.task.responses.values_list("pk", "text"))
    order = slot.shown_order or []
    left_is_better = texts[order[0]] == item.candidate_text
    press(page, "2" if left_is_better else "6", "Enter")
    expect(page.locator(f"[data-slot='{slot.pk}']")).to_have_count(0)
    wait_until(slot.task.rankings.exists)


def test_people_decide_an_evaluation_and_a_chat_with_the_promoted_model_becomes_training_data(
    chatting, visit, celery_worker, speller, adapter_of_speller
):
    project, trainer = make_project(rankings_per_task=1), make_user(Role.TRAINER)
    base, _ = add_base(project=project, base=str(speller), by=trainer)
    candidate = make_adapter(base, snapshot_of(project))
    shutil.copytree(adapter_of_speller, candidate.adapter_folder, dirs_exist_ok=True)
    celery_worker()

    page = visit(f"/models/{candidate.pk}/", trainer)
    page.get_by_role("link", name="Evaluate").click()
    page.get_by_label("Judge").first.select_option(label="None: only people judge")
    page.get_by_label("Maximum number of prompts").fill(str(PROMPTS))
    page.get_by_label("Longest response").fill("12")
    page.get_by_role("button", name="Start run").click()
    expect(page.locator(".badge", has_text="Succeeded")).to_be_visible(timeout=2 * MINUTE)
    evaluation = Evaluation.objects.get()
    assert evaluation.items.exclude(task=None).count() == PROMPTS

    review = f"/p/{project.slug}/review/"
    desks = [visit(review, make_member(project)) for _ in range(2)]
    verdicts = 0
    while not evaluation.is_decided():
        prefer_candidate(desks[verdicts % 2], evaluation)
        verdicts += 1
    wait_until(lambda: Evaluation.objects.exclude(stopped_at=None).exists())
    assert 0 < Slot.objects.filter(ranking=None, priority=OFF_QUEUE).count() == PROMPTS - verdicts

    page.goto(f"/models/evaluations/{evaluation.pk}/")
    expect(page.get_by_role("heading", name="Reviewers, blind better")).to_be_visible()
    expect(page.get_by_text("because the answer is clear")).to_be_visible()
    page.goto(f"/models/{candidate.pk}/")
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_role("link", name="certificate 1")).to_be_visible()
    candidate.refresh_from_db()
    assert candidate.state == Model.State.PROMOTED

    page.get_by_role("link", name="Chat", exact=True).click()
    page.get_by_text("More settings").click()
    page.get_by_label("Longest answer (tokens)").fill("12")
    page.get_by_role("button", name="Start chat").click()
    page.get_by_label("Message").fill("Spell a new word.")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Left is better")).to_be_visible()
    for name in (candidate.name, base.name):
        expect(page.locator("main")).not_to_contain_text(name)
    page.get_by_role("button", name="Left is better").click()
    expect(page.get_by_text("Verdict: Left is better.")).to_be_visible()
    answers = Conversation.objects.get().turns.get().replies()
    assert {reply.model for reply in answers.values()} == {candidate, base}

    page.goto(f"/snapshots/new/?project={project.slug}")
    page.get_by_role("button", name="Freeze").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Snapshot")
    expect(page.locator("dl")).to_contain_text("Chat: 1")
    assert Snapshot.objects.filter(project=project).count() == 2
    [group] = [
        group
        for group in read_groups(Snapshot.objects.latest("id").file)
        if group.prompt == [{"role": "user", "content": "Spell a new word."}]
    ]
    text_of = dict(zip(group.response_ids, group.responses, strict=True))
    tiers = [[text_of[pk] for pk in tier] for tier in group.rankings[0].tiers]
    assert (group.split, tiers) == ("train", [[answers["left"].text], [answers["right"].text]])
