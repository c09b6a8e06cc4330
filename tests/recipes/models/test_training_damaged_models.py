"""Tests of the errors of models and tokenizers that are incomplete or damaged on the disk."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.training.models.language_model import load_model, load_tokenizer
from recipes.errors import RecipeError
from tests.tiny import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder


def cut_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def empty_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 0)


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_weights, "The model {} cannot be loaded: a file of its weights cannot be read ("),
        (empty_weights, "The model {} cannot be loaded: a file of its weights cannot be read ("),
        (no_tokenizer, "The tokenizer of {} cannot be loaded: it has no tokenizer.json. Copy"),
        (damaged_tokenizer, "The tokenizer of {} cannot be loaded: its files cannot be read ("),
    ],
)
def test_a_damaged_model_is_named_with_a_remedy(
    model: Path, tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(model, folder)
    damage(folder)
    with pytest.raises(RecipeError) as raised:
        load_tokenizer(str(folder))
        load_model(str(folder), "float32")
    assert str(raised.value).startswith(sentence.format(folder))
    assert "cop" in str(raised.value).lower()
