from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from recipes.layout.collate import Collator
from recipes.layout.compiling import compile_layers
from recipes.layout.forward import outputs_of
from recipes.stopping import StopSignal
from reward.training import train as recipe
from tests.recipes.layout.test_training_layout import UNEVEN, reward_model
from tests.recipes.preferences.test_training_equality import assert_same
from tests.reward.world import make_groups, make_run, tiny_llama

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_all_layers_share_one_compilation_for_every_length(tmp_path):
    model = reward_model(tmp_path)
    collator = Collator(0, "shared", packed=True)
    expected = [outputs_of(model, groups, collator) for groups in (UNEVEN, UNEVEN[:2], UNEVEN[1:])]
    assert compile_layers(model.classifier, backend="eager") == 2
    outputs_of(model, UNEVEN, collator)
    once = graphs()
    for groups, scores in zip((UNEVEN, UNEVEN[:2], UNEVEN[1:]), expected, strict=True):
        result = outputs_of(model, groups, collator)
        torch.testing.assert_close(result, scores, atol=1e-5, rtol=1e-5)
    assert graphs() == once > 0


def test_a_compiled_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    # Without code generation, which takes half a minute; the graphs are those of any other backend.
    monkeypatch.setattr(recipe, "compile_layers", partial(compile_layers, backend="eager"))
    weights = []
    for compiled in (False, True):
        settings = {"lora_r": 0, "batch_size": 8, "epochs": 1, "compile": compiled}
        groups = make_groups(8, 0)
        run_dir = make_run(tmp_path / str(compiled), tiny_llama(tmp_path), groups, **settings)
        recipe.train(run_dir, StopSignal())
        weights.append(load_file(run_dir.output / "model.safetensors"))
        assert (graphs() > 0) == compiled
    assert_same(*weights)
