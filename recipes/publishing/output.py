"""Publishing of a trained model: it is written, read back and compared, then renamed to `output/`."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

from recipes.errors import RecipeError
from recipes.models.chat_options import ChatRecord
from recipes.rundir import RunDir, write_json


def publish(
    run_dir: RunDir,
    model: Any,
    tokenizer: Any,
    report: Mapping[str, Any],
    card: str,
    chat: ChatRecord,
) -> None:
    """Write the adapter, or the whole model if it has none, with the tokenizer, report and card.

    `chat` is written too, so that chats have the same text when the model is served as in training.
    """
    with run_dir.publish() as draft:
        model.save_pretrained(draft)
        verify_saved(model, draft)
        tokenizer.save_pretrained(draft)
        write_json(draft / "report.json", report)
        (draft / "README.md").write_text(card)
        chat.write(draft)


def verify_saved(model: Any, folder: Path) -> None:
    """Raise RecipeError unless the folder contains every trained weight, bit for bit."""
    written: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        written.update(load_file(file))
    adapter = isinstance(model, PeftModel)
    trained = get_peft_model_state_dict(model) if adapter else model.state_dict()
    for name, weight in trained.items():
        if name not in written or not torch.equal(weight.cpu(), written[name]):
            raise RecipeError(
                f"The model was not saved completely: {name} is missing or different. Is the disk full?"
            )


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a draft folder. If the block succeeds, it becomes `out`; otherwise it is deleted.

    Raises RecipeError if `out` exists.
    """
    if out.exists():
        raise RecipeError(f"{out} already exists. Choose a folder that does not.")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        yield draft
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
