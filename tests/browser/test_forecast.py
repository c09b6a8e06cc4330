"""Test of the forecast on the launch form, and of a change that makes the run fit."""

import os

from accounts.models import Role, User
from finetune.registry import add_base
from runs import preflight, services
from runs.models import Forecast
from tests.finetune.factory import make_snapshot
from tests.finetune.test_forecasts import measured
from tests.reward.factory import make_project
from tests.tiny import make_model
from tests.worker import runs_dir

__all__ = ["runs_dir"]


def test_one_click_changes_the_settings_so_that_the_run_fits(
    visit, transactional_db, runs_dir, tmp_path
):
    trainer, project = (
        User.objects.create_user("tara", role=Role.TRAINER, all_projects=True),
        make_project(),
    )
    model, _ = add_base(project=project, base=str(make_model(tmp_path / "tiny")), by=trainer)
    snapshot = make_snapshot(project, prompts=12, test_fraction=0.3)
    inputs = {"project": project.pk, "snapshot": snapshot.pk, "model": model.pk}
    for micro, megabytes in ((4, 5000), (2, 700)):
        config = services.checked("dpo", {"micro_batch_size": micro}, inputs)
        Forecast.objects.create(
            key=preflight.key_of("dpo", config, inputs), kind="dpo", config=config, inputs=inputs,
            state="done", measurement=measured(megabytes),
        )  # fmt: skip
    page = visit("/runs/new/dpo/", trainer)
    page.get_by_role("button", name="Forecast memory and time").click()
    page.get_by_text("does not fit into memory").wait_for()
    shoot(page, "unfit")
    page.get_by_role("button", name="Apply").first.click()
    page.get_by_text("800 MB").wait_for()
    page.get_by_text("does not fit into memory").wait_for(state="detached")
    assert page.locator("[name=config-micro_batch_size]").input_value() == "2"
    shoot(page, "fits")


def shoot(page, name):
    folder = os.environ.get("SHOTS")
    if not folder:
        return
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width in (1440, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.locator("[data-preflight]").scroll_into_view_if_needed()
            page.screenshot(path=f"{folder}/{name}-{theme}-{width}.png")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})
