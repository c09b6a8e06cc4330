"""Pull a model from a model hub at a revision, as files of a run.

    python -m finetune.training.release.pull RUN_DIR

reads   run.json (config: finetune.settings.PullConfig)
writes  output/: the files of the model, and hub.json with the repository, the commit and the hashes

The revision is resolved to a commit once, and each file is compared with the hash that the hub states
for it. Only files that are read as data are downloaded: weights in safetensors, configurations, the
tokenizer, the chat template, the card and the report. Pickled weights and programs are never
downloaded.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from finetune.settings import PullConfig
from finetune.training.release.hub import (
    ADAPTER,
    check_weights,
    connect,
    different,
    endpoint,
    hub_errors,
    token,
)
from recipes.errors import RecipeError
from recipes.hub_names import HubName, hub_name
from recipes.rundir import RunDir, write_json
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training.checkpoints import sha256

READ = frozenset(
    {
        "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "config.json",
        "generation_config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
        "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
        "merges.txt", "chat_template.jinja", "chat_template.json", "chat.json", "report.json",
        "certificate.json", "model.safetensors.index.json",
    }
)  # fmt: skip
"""Files that are downloaded, in addition to weights in safetensors."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
MAX_SMALL_BYTES = 200_000_000
"""The largest size of a file without weights. The largest tokenizers have about 35 MB."""


def pull(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    config = PullConfig.from_dict(run_dir.spec()["config"])
    name = hub_name(config.repo)
    with hub_errors(name), run_dir.publish() as draft:
        run_dir.stage("Asking the hub")
        info = connect().model_info(name.repo, revision=name.revision, files_metadata=True)
        files = chosen_files(name, info.siblings or [])
        skipped = [file.rfilename for file in info.siblings or () if file not in files]
        check_space(run_dir, files)
        for number, file in enumerate(files, 1):
            stop.check()
            run_dir.stage(f"Downloading {file.rfilename} ({number} of {len(files)})")
            download(name, str(info.sha), file, draft)
        shutil.rmtree(draft / ".cache", ignore_errors=True)
        check_weights(draft, [f.rfilename for f in files if f.rfilename.endswith(".safetensors")])
        check_config(draft)
        if pickled := [path for path in skipped if path.endswith(PICKLED)]:
            run_dir.message(f"Pickled weights were not downloaded: {', '.join(pickled)}.")
        record = {
            "repo": name.repo,
            "revision": name.revision,
            "commit": info.sha,
            "files": {f.rfilename: sha256(draft / f.rfilename) for f in files},
        }
        write_json(draft / "hub.json", record)
    result = {**record, "files": len(files), "bytes": sum(file.size or 0 for file in files)}
    run_dir.emit("result", result=result)


def chosen_files(name: HubName, siblings: list[Any]) -> list[Any]:
    """Return the files to download. Raises RecipeError if there are no weights in safetensors."""
    names = {file.rfilename for file in siblings}
    adapter = ADAPTER[0] in names
    weights = {
        path
        for path in names
        if path.endswith(".safetensors")
        and "/" not in path
        and (path == ADAPTER[1] if adapter else path.startswith("model"))
    }
    if not weights:
        pickled = sorted(path for path in names if path.endswith(PICKLED))
        if pickled:
            raise RecipeError(
                f"{name} has only pickled weights ({pickled[0]}), which can run code. Convert them to "
                "safetensors, and push them to another revision."
            )
        raise RecipeError(f"{name} has no weights in safetensors files.")
    if not adapter and "config.json" not in names:
        raise RecipeError(f"{name} has no config.json, so it is not a model of transformers.")
    files = [file for file in siblings if file.rfilename in weights | (READ & names)]
    for file in files:
        if file.rfilename in READ and (file.size or 0) > MAX_SMALL_BYTES:
            raise RecipeError(f"{file.rfilename} of {name} is too large: {file.size:,} bytes.")
    return files


def check_space(run_dir: RunDir, files: list[Any]) -> None:
    needed, free = sum(file.size or 0 for file in files), shutil.disk_usage(run_dir.path).free
    if needed > free:
        raise RecipeError(
            f"The model has {needed:,} bytes, but only {free:,} are free in {run_dir.path}."
        )


def download(name: HubName, commit: str, file: Any, draft: Path) -> None:
    """Download a file, and compare it with the hash of the hub. Raises RecipeError."""
    hf_hub_download(
        name.repo,
        file.rfilename,
        revision=commit,
        local_dir=draft,
        endpoint=endpoint(),
        token=token() or False,
    )
    if different(draft / file.rfilename, file):
        raise RecipeError(
            f"{file.rfilename} differs from the hash that the hub states for it. Nothing was stored. "
            "Start the run again."
        )


def check_config(draft: Path) -> None:
    for path in (draft / ADAPTER[0], draft / "config.json"):
        try:
            readable = not path.exists() or isinstance(json.loads(path.read_text()), dict)
        except ValueError:
            readable = False
        if not readable:
            raise RecipeError(f"{path.name} is not valid JSON with the settings of a model.")


if __name__ == "__main__":
    sys.exit(run_recipe(pull, __doc__ or "", uses_gpu=False))
