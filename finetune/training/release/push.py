"""Push an adapter or a merged model to a model hub.

    python -m finetune.training.release.push RUN_DIR

reads   run.json (config: finetune.settings.PushConfig), the files of the model, data/release.json (the
        facts for the model card, see finetune/release/facts.py), optionally data/certificate.json
writes  output/: the model card and report.json, with the commit and the hashes of the pushed files

The weights, the tokenizer, the chat template, the generation configuration and the model card become
one commit. Paths of this machine are replaced in the card, the report and the configuration of the
adapter. The hub's hashes of the commit are then compared with the files.

Deliberately not implemented:
- pull requests on other people's repositories
- resuming: a repeated push uploads only what the hub does not have yet
"""

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from finetune.settings import PushConfig
from finetune.training.release.card import release_card
from finetune.training.release.hub import (
    ADAPTER,
    WITHOUT_ACCESS,
    check_weights,
    connect,
    different,
    hub_errors,
    reason_of,
    token,
)
from recipes.errors import RecipeError
from recipes.hub_names import MAIN, HubName, hub_name
from recipes.rundir import RunDir, link_or_copy, write_json
from recipes.runner import run_recipe
from recipes.stopping import StopSignal
from recipes.training.checkpoints import sha256

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
OWN_FILES = frozenset({".gitattributes"})
"""Files that the hub itself adds to a new repository."""


def push(run_dir: RunDir, stop: StopSignal) -> None:
    """Run the recipe. Raises Stopped, RecipeError or an error of a library."""
    spec = run_dir.spec()
    config = PushConfig.from_dict(spec["config"])
    name, folder = hub_name(config.repo), Path(config.folder)
    if not token():
        raise RecipeError(WITHOUT_ACCESS.format(access="with write"))
    facts = json.loads((run_dir.data / "release.json").read_text())
    draft = run_dir.path / ".release"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        write_release(draft, folder, run_dir, facts=facts, config=config)
        stop.check()
        with hub_errors(name):
            api = connect()
            run_dir.stage("Asking the hub")
            branch = prepared_branch(api, name, private=config.private, replace=config.replace)
            stop.check()
            run_dir.stage("Uploading")
            commit = upload(api, name, draft, branch)
            run_dir.stage("Comparing the hashes of the hub")
            compare(api, name, draft, commit.oid)
        report = report_of(config, name, commit, draft, spec)
        with run_dir.publish() as output:
            shutil.copyfile(draft / "README.md", output / "README.md")
            write_json(output / "report.json", report)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    run_dir.emit("result", result={key: report[key] for key in ("repo", "branch", "commit", "url")})


# --- the files -----------------------------------------------------------------------------------


def write_release(
    draft: Path, folder: Path, run_dir: RunDir, *, facts: dict[str, Any], config: PushConfig
) -> None:
    """Write the files to push. Weights are linked. Raises RecipeError if a file is missing."""
    draft.mkdir()
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            link_or_copy(path, draft / path.name)
    complete(draft, folder)
    local = local_names(facts, config)
    if (draft / ADAPTER[0]).exists():
        rewrite(draft / ADAPTER[0], adapter_config(draft / ADAPTER[0], facts["base"]))
        add_generation_config(draft, facts)
    for path in (draft / "report.json", draft / "chat.json"):
        if path.exists():
            rewrite(path, portable(json.loads(path.read_text()), local))
    card = (folder / "README.md").read_text() if (folder / "README.md").exists() else ""
    (draft / "README.md").unlink(missing_ok=True)
    (draft / "README.md").write_text(release_card(card, facts, config, local))
    certificate = run_dir.data / "certificate.json"
    if certificate.exists():
        link_or_copy(certificate, draft / "certificate.json")


def rewrite(path: Path, value: Any) -> None:
    """Replace a file, which may be a hard link to a file of another run."""
    path.unlink()
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def complete(draft: Path, folder: Path) -> None:
    """Raise RecipeError unless the weights are readable safetensors and the tokenizer exists."""
    names = {path.name for path in draft.iterdir()}
    adapter = ADAPTER[0] in names
    required = [*(ADAPTER if adapter else ("config.json",)), *TOKENIZER]
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    if missing := [name for name in required if name not in names]:
        raise RecipeError(f"{folder} is not a complete model: {', '.join(missing)} is missing.")
    if pickled := sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))):
        raise RecipeError(f"{folder} has pickled files, which can run code: {', '.join(pickled)}.")
    check_weights(draft, weights)


def adapter_config(path: Path, base: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the adapter with the hub's name of its base."""
    config: dict[str, Any] = json.loads(path.read_text())
    return {**config, "base_model_name_or_path": base["name"], "revision": base["revision"]}


def add_generation_config(draft: Path, facts: dict[str, Any]) -> None:
    """Copy the generation configuration of the base into the adapter, if it is on this machine."""
    if (draft / "generation_config.json").exists():
        return
    source = Path(facts["base_folder"]) / "generation_config.json"
    if not source.exists():
        from huggingface_hub import try_to_load_from_cache

        base = facts["base"]
        cached = try_to_load_from_cache(base["name"], source.name, revision=base["revision"])
        if not isinstance(cached, str):
            return
        source = Path(cached)
    shutil.copyfile(source, draft / "generation_config.json")


def local_names(facts: dict[str, Any], config: PushConfig) -> dict[str, str]:
    """Return what replaces the paths of this machine."""
    base = (facts["base"] or {}).get("name") or Path(facts["base_folder"]).name
    return {**facts["adapters"], config.folder: config.repo, facts["base_folder"]: base}


def portable(value: Any, names: dict[str, str]) -> Any:
    """Return a JSON value without paths of this machine."""
    if isinstance(value, dict):
        return {key: portable(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item, names) for item in value]
    if isinstance(value, str):
        if value in names:
            return names[value]
        return Path(value).name if value.startswith("/") and "\n" not in value else value
    return value


# --- the hub -------------------------------------------------------------------------------------


def prepared_branch(api: HfApi, name: HubName, *, private: bool, replace: bool) -> Any:
    """Return the branch as the hub describes it. It is created if it does not exist.

    Raises RecipeError if the branch has files and may not be replaced, or if the repository is public
    and should be private.
    """
    try:
        info = api.model_info(name.repo)
    except RepositoryNotFoundError:
        api.create_repo(name.repo, private=private, repo_type="model")
        info = api.model_info(name.repo)
    if private and not info.private:
        raise RecipeError(
            f"{name.repo} is public. To push a model that everyone can see, set private to false."
        )
    if name.revision != MAIN:
        try:
            api.model_info(name.repo, revision=name.revision)
        except RevisionNotFoundError:
            api.create_branch(name.repo, branch=name.revision)
            return api.model_info(name.repo, revision=name.revision)
    info = api.model_info(name.repo, revision=name.revision)
    if not replace and any(file.rfilename not in OWN_FILES for file in info.siblings or ()):
        raise RecipeError(
            f"{name} already has files. Push to another branch (OWNER/NAME@BRANCH), or set replace to "
            "true to replace them. Their commits stay in the history."
        )
    return info


def upload(api: HfApi, name: HubName, draft: Path, branch: Any) -> Any:
    """Commit the files, and delete those of the branch that are not among them."""
    files = sorted(path for path in draft.iterdir() if path.is_file())
    names = {path.name for path in files} | OWN_FILES
    old = [f.rfilename for f in branch.siblings or () if f.rfilename not in names]
    operations: list[Any] = [
        *(CommitOperationAdd(path.name, str(path)) for path in files),
        *(CommitOperationDelete(path, is_folder=False) for path in old),
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return api.create_commit(
                name.repo,
                operations,
                commit_message="Push a model from Tiebreak",
                revision=name.revision,
                parent_commit=branch.sha,
            )
    except (ValueError, RuntimeError) as error:
        reason = reason_of(error.__cause__ or error) if type(error) is RuntimeError else error
        raise RecipeError(f"{name} was not changed: {reason}") from None


def compare(api: HfApi, name: HubName, draft: Path, commit: str) -> None:
    """Raise RecipeError unless the commit has exactly the pushed files."""
    info = api.model_info(name.repo, revision=commit, files_metadata=True)
    siblings = {file.rfilename: file for file in info.siblings or ()}
    wrong = [
        path.name
        for path in sorted(draft.iterdir())
        if path.name not in siblings or different(path, siblings[path.name])
    ]
    wrong += sorted(set(siblings) - OWN_FILES - {path.name for path in draft.iterdir()})
    if wrong:
        raise RecipeError(
            f"The commit {commit[:12]} of {name} has other content than the pushed files: "
            f"{', '.join(wrong)}. Push the model again, with replace."
        )


def report_of(
    config: PushConfig, name: HubName, commit: Any, draft: Path, spec: dict[str, Any]
) -> dict[str, Any]:
    return {
        "kind": "push",
        "repo": name.repo,
        "branch": name.revision,
        "commit": commit.oid,
        "url": str(commit.commit_url),
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(draft.iterdir())
        },
        "config": config.to_dict(),
        "inputs": spec.get("inputs", {}),
    }


if __name__ == "__main__":
    sys.exit(run_recipe(push, __doc__ or "", uses_gpu=False))
