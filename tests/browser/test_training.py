"""Test of launching a reward model and a fine-tune and watching both."""

import re

import pytest
from playwright.sync_api import Page, expect

from accounts.models import Role, User
from finetune.models import Model
from finetune.registry import add_base
from reward.models import RewardModel
from reward.preferences.snapshots import SnapshotFilter, freeze
from tests.reward.factory import make_project as bare_project
from tests.reward.factory import make_prompt, make_task, make_user, rank
from tests.tiny import make_model
from tests.worker import celery_worker, runs_dir

__all__ = ["celery_worker", "runs_dir"]

MINUTE = 60_000


@pytest.fixture
def trainer(transactional_db: None) -> User:
    return User.objects.create_user("tara", role=Role.TRAINER, all_projects=True)


def start(page: Page) -> None:
    page.get_by_role("button", name="Start run").click()
    expect(page).to_have_url(re.compile(r"/runs/\d+/$"))
    expect(page.locator(".badge", has_text="Succeeded")).to_be_visible(timeout=2 * MINUTE)
    expect(page.get_by_role("heading", name="Result")).to_be_visible()


def fill_small(page: Page) -> None:
    page.get_by_text("More settings").click()
    for label in ("LoRA rank", "LoRA alpha"):
        page.get_by_label(label).fill("4")
    page.get_by_label("Learning rate").fill("1e-3")


def test_a_trainer_launches_a_reward_model_and_a_fine_tune_and_watches_both_end(
    visit, celery_worker, trainer, tmp_path
):
    project, reviewer = bare_project(), make_user()
    for _ in range(16):
        rank(make_task(make_prompt(project)), reviewer)
    base, _ = add_base(project=project, base=str(make_model(tmp_path / "tiny")), by=trainer)
    freeze(project=project, filter=SnapshotFilter(test_fraction=0.4), by=trainer)
    celery_worker()

    page = visit("/runs/", trainer)
    page.get_by_role("link", name="New run").click()
    page.get_by_role("link", name=re.compile("Reward model")).click()
    fill_small(page)
    page.get_by_label("Base model").fill(base.base)
    start(page)
    reward_model = RewardModel.objects.get()
    page.get_by_role("link", name=reward_model.name).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(reward_model.name)

    page.goto("/runs/new/")
    page.get_by_role("link", name=re.compile(r"LoRA fine-tune \(DPO\)")).click()
    fill_small(page)
    start(page)
    adapter = Model.objects.exclude(adapter="").get()
    page.get_by_role("link", name=adapter.name).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(adapter.name)
    assert adapter.parent == base
