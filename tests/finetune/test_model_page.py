"""Tests of the page of a model: facts, licence, policy, usage and derived models."""

import json
import struct
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from finetune.model_page.facts import facts_of, large_number, parameters_in
from finetune.model_page.licence import advice_on, licence_of
from finetune.model_page.usage import python_code
from finetune.models import Model
from runs.models import Run
from tests.finetune.factory import (
    make_adapter,
    make_base,
    make_evaluation,
    make_run,
    make_snapshot,
    model_folder,
)
from tests.reward.factory import make_project

pytestmark = pytest.mark.django_db


@pytest.fixture
def lead(client, people):
    client.force_login(people["lead"])
    return client


def page_of(client, model: Model) -> str:
    answer = client.get(reverse("model", args=[model.pk]))
    assert answer.status_code == 200
    return unescape(answer.text)


def section(page: str, name: str) -> str:
    return page.split(f'id="{name}"')[1].split("</section>")[0]


def based_on(folder: Path, project: Any, card: str = "", **files: str) -> Model:
    base = model_folder(folder)
    for name, text in {"README.md": card, **files}.items():
        if text:
            (base / name).write_text(text)
    return make_base(project, base=str(base))


# --- facts ----------------------------------------------------------------------------------------


def test_the_summary_tells_what_the_files_tell(lead, project, folders, tmp_path):
    base = based_on(tmp_path / "base", project)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 30,
        "max_position_embeddings": 2048,
    }
    (Path(base.base) / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    adapter = make_adapter(base, make_snapshot(project, prompts=4, test_fraction=0.4))
    Run.objects.filter(pk=adapter.run_id).update(
        config={"lora_r": 8, "epochs": 1.0, "learning_rate": 1e-5}
    )
    adapter.refresh_from_db()
    (Path(adapter.adapter_folder) / "adapter_model.safetensors").write_bytes(
        _weights([[3, 4], [5]])
    )
    facts = dict(facts_of(adapter))
    assert facts["Architecture"] == "LlamaForCausalLM, 30 layers"
    assert facts["Context length"] == "2,048 tokens"
    assert facts["Fine-tuned with"].endswith("learning rate 1e-05, 1 epoch")
    assert facts["Adapter"].startswith("rank 8, 17 parameters")
    assert "2,048 tokens" in section(page_of(lead, adapter), "summary")


def _weights(shapes: list[list[int]]) -> bytes:
    entries = {
        str(n): {"dtype": "F32", "shape": s, "data_offsets": [0, 0]} for n, s in enumerate(shapes)
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    "content", [b"", b"1234", struct.pack("<Q", 2**60), struct.pack("<Q", 3) + b"[1]", b"\xff" * 99]
)
def test_damaged_weights_have_no_number_of_parameters(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert parameters_in([tmp_path / "model.safetensors", tmp_path / "missing"]) == 0


@pytest.mark.parametrize(
    ("count", "text"), [(17, "17"), (134_515_008, "135 million"), (7_241_732_096, "7.24 billion")]
)
def test_numbers_of_parameters_are_rounded(count, text):
    assert large_number(count) == text


@pytest.mark.parametrize("config", ["{", "[]", '{"architectures": 3, "num_hidden_layers": "x"}'])
def test_a_damaged_config_does_not_break_the_page(lead, project, tmp_path, config):
    base = based_on(tmp_path / "base", project)
    (Path(base.base) / "config.json").write_text(config)
    page_of(lead, base)


# --- licence and policy ---------------------------------------------------------------------------

APACHE = "---\nlicense: apache-2.0\ntags:\n- x\n---\n# A model\nlicense: mit\n"


def test_the_licence_of_the_base_is_that_of_all_models_made_from_it(
    lead, project, folders, tmp_path
):
    base = based_on(tmp_path / "base", project, APACHE)
    adapter = make_adapter(base, make_snapshot(project, prompts=4, test_fraction=0.4))
    licence = licence_of(adapter)
    assert licence.name == "apache-2.0" and "permits commercial use" in licence.advice
    assert "apache-2.0" in section(page_of(lead, adapter), "permission")


@pytest.mark.parametrize(
    ("card", "files", "name"),
    [
        (
            "---\nlicense: other\nlicense_name: 'llama3'\nlicense_link: javascript:x\n---\n",
            {},
            "llama3",
        ),
        ("# No front matter\nlicense: mit\n", {}, ""),
        ("", {"LICENSE": "\n   Apache License\n"}, "Apache License"),
        ("---\nlicense:\n---\n", {"LICENSE.txt": "MIT"}, "MIT"),
        ("", {}, ""),
    ],
)
def test_the_licence_is_read_from_the_card_or_the_licence_file(
    project, tmp_path, card, files, name
):
    licence = licence_of(based_on(tmp_path / "base", project, card, **files))
    assert licence.name == name and licence.link == ""
    assert licence.advice


def test_a_hostile_licence_is_shown_as_text(client, people, project, tmp_path):
    client.force_login(people["lead"])
    card = "---\nlicense: <script>alert(1)</script>\nlicense_link: javascript:alert(1)\n---\n"
    base = based_on(tmp_path / "base", project, card)
    page = client.get(reverse("model", args=[base.pk])).text
    assert "<script>alert" not in page and 'href="javascript' not in page


@pytest.mark.parametrize(
    ("name", "text"),
    [("mit", "permits"), ("cc-by-nc-4.0", "does not permit"), ("llama3", "Read its terms")],
)
def test_the_advice_depends_on_the_licence(name, text):
    assert text in advice_on(name)


def test_a_model_on_the_hub_without_a_local_copy_has_an_unknown_licence(
    project, monkeypatch, tmp_path
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    licence = licence_of(make_base(project, base="org/unknown"))
    assert licence.name == "" and "no files of org/unknown" in licence.advice


def test_the_page_says_whether_the_policy_is_met(lead, project, adapter):
    policy = section(page_of(lead, adapter), "permission")
    assert "Does not meet the policy of the project (People's verdicts)." in policy
    assert "It has never been evaluated" in policy
    project.promotion_policy = "judge"
    project.save()
    make_evaluation(adapter, verdicts=[1.0] * 40)
    page = page_of(lead, adapter)
    assert "Meets the policy" in section(page, "permission")
    assert f"{adapter} is better than {adapter.parent}" in section(page, "summary")


def test_a_model_without_files_says_so_and_offers_no_download(lead, adapter):
    assert "The files were removed" not in page_of(lead, adapter)
    Run.objects.filter(pk=adapter.run_id).update(files_removed_at=timezone.now())
    page = page_of(lead, adapter)
    assert "The files were removed" in page and 'id="downloads"' not in page


def test_a_missing_folder_is_named(lead, project, tmp_path):
    base = make_base(project, base=str(tmp_path / "gone"))
    assert f"The folder {tmp_path / 'gone'} is missing." in page_of(lead, base)


# --- usage ----------------------------------------------------------------------------------------


def test_the_api_name_of_the_promoted_model_is_that_of_its_project(lead, project, adapter):
    name = f'"{project.slug}/{adapter.pk}"'
    assert name in section(page_of(lead, adapter), "usage")
    Model.objects.filter(pk=adapter.pk).update(state=Model.State.PROMOTED)
    usage = section(page_of(lead, adapter), "usage")
    assert name not in usage and f'model="{project.slug}"' in usage
    assert 'base_url="http://testserver/v1"' in usage


def test_an_archived_model_has_no_code_for_the_api(lead, adapter):
    Model.objects.filter(pk=adapter.pk).update(state=Model.State.ARCHIVED)
    page = page_of(lead, adapter)
    assert "data-api-code" not in page and "data-python-code" in page


def test_paths_and_revisions_are_quoted_in_the_code(project):
    odd = '/models/it\'s "odd"\\n'
    compile(python_code(make_base(project, base=odd)), "code", "exec")
    assert '"org/name", revision="v1.0"' in python_code(make_base(project, base="org/name@v1.0"))


@pytest.mark.torch
@pytest.mark.parametrize("chat", [True, False])
def test_the_python_code_of_a_base_and_an_adapter_writes_an_answer(
    lead, project, folders, tmp_path, capsys, chat
):
    from tests.finetune.training.training_runs import make_adapter as write_adapter
    from tests.tiny import make_model, make_tokenizer

    folder = make_model(tmp_path / "it's a model", chat=chat)
    base = make_base(project, base=str(folder))
    adapter = make_adapter(base, make_snapshot(project, prompts=4, test_fraction=0.4))
    write_adapter(Path(adapter.adapter_folder), folder, scale=1.0)
    make_tokenizer(chat).save_pretrained(adapter.adapter_folder)
    (Path(adapter.adapter_folder) / "chat.json").write_text(
        json.dumps({"chat_template_kwargs": {"enable_thinking": False}})
    )
    for model in (base, adapter):
        code = page_of(lead, model).split("data-python-code>")[1].split("</pre>")[0]
        assert ("apply_chat_template" in code) is chat
        assert ("enable_thinking=False" in code) is (chat and model == adapter)
        exec(code.replace("max_new_tokens=200", "max_new_tokens=3"), {})
        assert capsys.readouterr().out


# --- derived models -------------------------------------------------------------------------------


def test_the_page_lists_models_made_from_it_and_copies_on_hubs(lead, project, adapter):
    child = make_adapter(adapter, adapter.snapshot)
    make_run(
        "push",
        inputs={"model": adapter.pk},
        result={"repo": "org/x", "branch": "main", "url": "https://hub/x"},
    )
    make_run(
        "push",
        inputs={"model": adapter.pk},
        result={"repo": "<b>", "branch": "main", "url": "javascript:x"},
    )
    make_run("generate", inputs={"model": adapter.pk})
    make_evaluation(child, baseline=adapter)
    Run.objects.filter(kind="evaluate").update(
        inputs={"candidate": child.pk, "baseline": adapter.pk}
    )
    derived = section(page_of(lead, adapter), "derived")
    assert reverse("model", args=[child.pk]) in derived
    assert 'href="https://hub/x"' in derived and "javascript:" not in derived
    assert "1 sampled responses, 1 compared it" in derived


def test_the_number_of_queries_does_not_grow_with_the_models_made_from_it(
    lead, adapter, django_assert_max_num_queries
):
    for _ in range(5):
        make_adapter(adapter, adapter.snapshot)
    with django_assert_max_num_queries(30):
        page_of(lead, adapter)


def test_a_model_of_another_project_is_not_found(lead):
    other = make_base(make_project())
    assert lead.get(reverse("model", args=[other.pk])).status_code == 404
