"""Test that a fine-tuning method is added by one file."""

import json
import sys

import pytest

from finetune import kinds, methods
from finetune.management.commands.finetune import method_in
from finetune.methods.method import all_methods, method_named
from finetune.training.train import train
from recipes.errors import RecipeError
from recipes.stopping import StopSignal
from runs.launching.form import ConfigForm
from tests.finetune.training.training_runs import dpo_run, groups_that_like_b, messages

TOY = '''
"""Likelihood of the first response in the order of the reviewers."""

from dataclasses import dataclass, replace

from finetune.methods.method import Method
from finetune.settings import FinetuneSettings
from recipes.preferences.best import best_responses
from recipes.preferences.loss_inputs import plain_loss_inputs
from recipes.settings import option


@dataclass(frozen=True, kw_only=True)
class ToySettings(FinetuneSettings):
    sharpness: float = option(1.0, "Factor of the loss, to see that it arrives.", min=0, max=9)


class Toy(Method):
    name, title, settings = "toy", "Toy fine-tune", ToySettings
    description = "Makes the best response likelier."
    paper = "a toy (Nobody 2026)"
    trains_on_reference = False

    def loss_inputs(self, group):
        order = plain_loss_inputs(group)
        return replace(order, signals={"favourite": best_responses(group)})

    def loss(self, groups):
        def loss(outputs, batch):
            assert "reference" not in batch
            logps = outputs["logps"] / outputs["counts"].clamp(min=1)
            return -self.config.sharpness * (batch["favourite"] * logps).sum(dim=-1), logps
        return loss


METHOD = Toy
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    yield method_named("toy")
    sys.modules.pop("finetune.methods.toy")
    del methods.toy


def test_one_file_adds_a_method_with_its_form_command_run_report_and_card(tmp_path, toy, model):
    assert all_methods()[0].name == "dpo"
    kind = kinds.kind_of(toy)
    assert (kind.name, kind.title) == ("toy", "Toy fine-tune")
    form = ConfigForm(kind)
    assert form.fields["sharpness"].help_text.startswith("Factor of the loss")
    assert "beta" not in form.fields and "model" not in form.fields
    assert method_in(["manage.py", "finetune", "--method", "toy", "--help"]) == "toy"
    assert method_in(["manage.py", "finetune", "--method=other"]) is None

    losses = {}
    for sharpness in (1.0, 2.0):
        run_dir = dpo_run(
            tmp_path / str(sharpness), model, groups_that_like_b(16), method="toy",
            sharpness=sharpness, epochs=4,
        )  # fmt: skip
        train(run_dir, StopSignal())
        report = json.loads((run_dir.output / "report.json").read_text())
        losses[sharpness] = [loss for _, loss in report["training"]["curve"]]
    assert report["kind"] == "toy" and report["config"]["sharpness"] == 2.0
    assert losses[2.0][0] == pytest.approx(2 * losses[1.0][0], rel=1e-5)
    assert losses[1.0][-1] < losses[1.0][0]
    assert report["held_out"]["chosen"] > 0  # the reference is the base
    card = (run_dir.output / "README.md").read_text()
    assert "by a toy (Nobody 2026), rank 4" in card and "β" not in card.partition("##")[0]


def test_an_unknown_method_is_refused(tmp_path, model):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(8), method="other")
    with pytest.raises(RecipeError, match="no fine-tuning method 'other'"):
        train(run_dir, StopSignal())


def test_a_waiting_run_of_an_earlier_version_starts_with_a_warning(tmp_path, model):
    run_dir = dpo_run(tmp_path, model, groups_that_like_b(8), weighting="equal", min_margin=0.2)
    train(run_dir, StopSignal())
    [warning] = messages(run_dir, "warning")
    assert warning.endswith("no effect any more: min_margin, weighting.")
