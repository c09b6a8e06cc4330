"""Tests of the export to ONNX, with onnxruntime."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.errors import RecipeError
from recipes.rundir import RunDir
from recipes.stopping import StopSignal
from reward.training import onnx as exporting
from reward.training.onnx import export, write_graph
from reward.training.onnx_check import GRAPH, difference, scores
from reward.training.score import Scorer
from reward.training.train import train
from tests.reward.world import make_groups, make_run, tiny_llama

torch.set_num_threads(1)

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
QUESTION = [{"role": "user", "content": "How are you?"}]
ANSWERS = ["Fine.", "Go away!"]


def onnx_run(folder: Path, trained: RunDir) -> RunDir:
    spec = {"kind": "onnx", "run_id": None, "config": {"reward_model": str(trained.output)}}
    run_dir = RunDir.create(folder, spec)
    shutil.copy(trained.data / "preferences.parquet", run_dir.data)
    return run_dir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a run that trained a reward model with two heads."""
    folder = tmp_path_factory.mktemp("onnx")
    run_dir = make_run(folder / "run", tiny_llama(folder), make_groups(8, 4), heads=2, epochs=1)
    train(run_dir, StopSignal())
    return run_dir


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    run_dir = onnx_run(tmp_path_factory.mktemp("exported") / "run", trained)
    export(run_dir, StopSignal())
    return run_dir


def test_onnxruntime_gives_the_scores_of_the_product(trained, exported):
    import onnxruntime

    report = json.loads((exported.output / "report.json").read_text())
    assert report["difference"] <= 1e-5 and report["texts"] > 4 and report["longest"] == 512
    session = onnxruntime.InferenceSession(exported.output / GRAPH)
    scorer = Scorer(trained.output)
    [expected] = scorer.score([(QUESTION, ANSWERS)])
    prompt, tails = scorer.chat.encode(QUESTION, ANSWERS)
    rows = [[*prompt.tolist(), *tail.tolist()] for tail in tails]
    np.testing.assert_allclose(scores(session, rows, 0), expected, atol=1e-4)
    assert expected[0] != pytest.approx(expected[1], abs=1e-3)


def test_the_code_in_the_readme_runs_and_gives_the_scores_without_torch(trained, exported):
    code = CODE.search((exported.output / "README.md").read_text())[1]
    code = code.replace("PATH_OF_THIS_FOLDER", str(exported.output))
    code = code.replace("print(scores)", "print(scores.tolist())")
    code = f"import sys\nsys.modules['torch'] = None  # as if it were not installed\n{code}"
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=exported.path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [expected] = Scorer(trained.output).score([(QUESTION, ANSWERS)])
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-4)


def test_a_graph_with_other_scores_is_refused_and_nothing_is_published(
    trained, exported, tmp_path, monkeypatch
):
    def write_shifted(classifier, folder):
        """Write the graph of the same model with a score that is too high by 0.001."""
        import onnx
        from onnx import helper, numpy_helper

        graph = onnx.load(exported.output / GRAPH)
        graph.graph.output[0].name = "shifted"
        shift = numpy_helper.from_array(np.array(0.001, dtype=np.float32), "shift")
        graph.graph.initializer.append(shift)
        for node in graph.graph.node:
            node.output[:] = ["unshifted" if name == "score" else name for name in node.output]
        graph.graph.node.append(helper.make_node("Add", ["unshifted", "shift"], ["score"]))
        graph.graph.output[0].name = "score"
        onnx.save(graph, folder / GRAPH)

    monkeypatch.setattr(exporting, "write_graph", write_shifted)
    run_dir = onnx_run(tmp_path / "run", trained)
    with pytest.raises(RecipeError, match=r"differ by 0\.001 .* Nothing was published"):
        export(run_dir, StopSignal())
    assert not run_dir.output.exists()


def test_a_tokenizer_that_reads_text_differently_and_a_damaged_graph_are_refused(
    exported, tmp_path
):
    rows = tmp_path / "rows.json"
    content = {"special": False, "rows": [{"text": "a", "ids": [1], "score": 0.0}]}
    rows.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match="reads a text differently"):
        difference(exported.output, rows)
    folder = tmp_path / "damaged"
    shutil.copytree(exported.output, folder)
    (folder / GRAPH).write_bytes(b"not a graph")
    content["rows"][0]["text"] = None
    rows.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match="onnxruntime cannot use the graph"):
        difference(folder, rows)


def test_an_encoder_is_exported(tmp_path):
    import onnxruntime
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        "bert", vocab_size=99, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    write_graph(model, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / GRAPH)
    rows = [[5, 6, 7, 8, 9], [10, 11, 12], [13]]
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([row])).logits.item() for row in rows]
    np.testing.assert_allclose(scores(session, rows, 0), expected, atol=1e-5)


def test_a_family_that_cannot_be_exported_is_refused_with_a_sentence(tmp_path):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    class Branching(LlamaForSequenceClassification):
        """A model whose computation depends on the values of its input."""

        def forward(self, input_ids, attention_mask, **options):
            if input_ids.sum() > 10:
                input_ids = input_ids.flip(1)
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)

    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(
        RecipeError, match=r"^Models of the family llama cannot be exported to ONNX"
    ):
        write_graph(Branching(config), tmp_path)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(exporting, "PACKAGES", ("json", "no_such_package"))
    with pytest.raises(RecipeError, match=r"needs the packages no_such_package, .*\[onnx\]"):
        exporting.refuse_missing_packages()
