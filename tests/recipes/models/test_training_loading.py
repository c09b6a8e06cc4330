"""Tests that loading a model runs no code, reads no pickles and chooses the attention itself."""

import ast
import json

import pytest
import torch

from config.env import BASE_DIR
from finetune.training.models.language_model import load_model, load_tokenizer
from recipes.errors import RecipeError
from recipes.models import chat_template
from recipes.models.chat_format import ChatFormat
from recipes.models.chat_template import TemplateTooCostly, time_limit
from recipes.models.loading import read_adapter, read_config
from reward.training.models.reward_model import load_tokenizer as load_reward_tokenizer
from reward.training.models.reward_model import read_base
from tests.tiny import CHAT_TEMPLATE, make_model, make_tokenizer

torch.set_num_threads(1)


def loading_calls():
    for folder in ("recipes", "reward/training", "finetune/training"):
        for path in sorted((BASE_DIR / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and getattr(node.func, "attr", "") == "from_pretrained"
                ):
                    yield (
                        f"{path.name}:{node.lineno}",
                        ast.unparse(node.func),
                        {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords},
                    )


def test_every_load_disallows_code_and_pickles():
    calls = list(loading_calls())
    assert len(calls) >= 6
    for position, name, options in calls:
        if "PeftModel" not in name and "GenerationConfig" not in name:  # these have no code
            assert options.get("trust_remote_code") == "False", position
        if "Model" in name:
            assert options.get("use_safetensors") == "True", position


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def named_attention(llama):
    """Yield a model whose configuration requests an attention from a hub repository."""
    path = llama / "config.json"
    before = path.read_text()
    named = {"_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel"}
    path.write_text(json.dumps({**json.loads(before), **named}))
    yield llama
    path.write_text(before)


def test_the_attention_that_a_configuration_names_is_ignored(named_attention):
    assert read_config(str(named_attention), None)._attn_implementation is None
    policy = load_model(str(named_attention), "float32")
    assert policy.config._attn_implementation == "sdpa"
    tokenizer = load_reward_tokenizer(str(named_attention))
    base, _ = read_base(str(named_attention), torch.float32, tokenizer)
    assert base.config._attn_implementation in ("sdpa", "tiebreak_pieces")


def test_pickled_weights_are_refused(tmp_path, llama):
    folder = make_model(tmp_path / "pickled")
    weights = load_model(str(folder), "float32").state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_model(str(folder), "float32")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(RecipeError, match="pickled weights are not read"):
        read_adapter(load_model(str(llama), "float32"), adapter)


# --- chat templates -------------------------------------------------------------------------------

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
MEMORY = "{% set x = 'x' * 2000000000 %}{{ x }}"


def test_an_ordinary_template_passes():
    chat_template.check(CHAT_TEMPLATE)
    chat_template.check("{% generation %}a{% endgeneration %}{{ messages | tojson }}")
    chat_template.check("{{ raise_exception('no') }}")
    chat_template.check(None)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (LOOP, "takes more than 1 seconds"),
        (MEMORY, "needs more than 1024 MB"),
        ("x" * 200_001, "has 200,001 characters"),
    ],
)
def test_a_template_that_costs_too_much_is_refused_before_the_model_is_used(
    tmp_path, monkeypatch, template, sentence
):
    monkeypatch.setattr(chat_template, "SECONDS", 1)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    for load in (load_tokenizer, load_reward_tokenizer):
        with pytest.raises(RecipeError, match=sentence):
            load(str(tmp_path))


def test_a_template_that_is_slow_for_one_conversation_ends_the_run(monkeypatch):
    monkeypatch.setattr(chat_template, "RENDER_SECONDS", 0.2)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% if 'bomb' in messages[0].content %}" + LOOP + "{% endif %}ok"
    chat = ChatFormat(tokenizer)
    assert chat._apply([{"role": "user", "content": "hello"}], opening=False) == "ok"
    with pytest.raises(RecipeError, match=r"chat template takes more than 0\.2 seconds"):
        chat._apply([{"role": "user", "content": "bomb"}], opening=False)


def test_the_limit_is_lifted_afterwards():
    with pytest.raises(TemplateTooCostly), time_limit(0.05):
        while True:
            pass
    with time_limit(0.05):
        pass
    torch.ones(3).sum()
