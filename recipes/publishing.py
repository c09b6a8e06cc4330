"""A trained model becomes the run's output: written, read back and compared, then shown as a whole."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

from recipes.errors import RecipeError
from recipes.rundir import RunDir, write_json


def publish(
    run_dir: RunDir, model: Any, tokenizer: Any, report: Mapping[str, Any], card: str
) -> None:
    """The adapter, or the whole model where there is none, with all that goes beside it."""
    with run_dir.publish() as draft:
        model.save_pretrained(draft)
        verify_saved(model, draft)
        tokenizer.save_pretrained(draft)
        write_json(draft / "report.json", report)
        (draft / "README.md").write_text(card)


def verify_saved(model: Any, folder: Path) -> None:
    """Raises RecipeError unless the folder holds what was trained, bit for bit."""
    written: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        written.update(load_file(file))
    adapter = isinstance(model, PeftModel)
    trained = get_peft_model_state_dict(model) if adapter else model.state_dict()
    for name, weight in trained.items():
        if name not in written or not torch.equal(weight.cpu(), written[name]):
            raise RecipeError(
                f"The model was not saved whole: {name} is missing. Is the disk full?"
            )


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A draft beside `out` that becomes it when the block ends well; else nothing is left behind.

    Raises RecipeError when `out` exists.
    """
    if out.exists():
        raise RecipeError(f"{out} exists already. Choose a folder that does not.")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        yield draft
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
