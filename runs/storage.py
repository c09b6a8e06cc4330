"""The locations of stored files. Only this module resolves the paths that rows store.

A stored path has the form `ROOT:PATH`, such as `runs:12/output` or `checkout:demo/tiny_model`, so that
`var/` and the checkout can be moved. The roots are folders in the settings. Names of models on Hugging
Face, and absolute paths of folders that a user has entered, are stored unchanged.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path, PurePath

from django.conf import settings

from buckets import files
from buckets.bucket import StorageError
from recipes.machine.faults import missing_folder
from recipes.training.checkpoints import sha256
from runs.models import Artifact

OUTPUT = re.compile(r"runs:(\d+)/output")


class MissingFiles(Exception):  # noqa: N818
    """Raised if files that a row names are missing or were changed. The message says what to do."""


def roots() -> dict[str, Path]:
    """Return the root folders by name. Inner folders come first, as var/ may be inside the checkout."""
    return {
        "runs": Path(settings.RUNS_DIR).absolute(),
        "snapshots": Path(settings.SNAPSHOTS_DIR).absolute(),
        "var": Path(settings.VAR_DIR).absolute(),
        "checkout": Path(settings.BASE_DIR).absolute(),
    }


def stored(path: str | Path) -> str:
    """Return the form in which a row stores the path of a folder or file."""
    absolute = Path(path).absolute()
    for name, root in roots().items():
        if absolute.is_relative_to(root):
            return f"{name}:{absolute.relative_to(root).as_posix()}"
    return str(absolute)


def portable(path: str) -> str:
    """Return the stored form of an absolute path that an earlier version wrote. Only migrations use this.

    The installation may have been moved since then. If an output of a run, or a folder in the checkout,
    is missing at the old path, it is looked up in the current root.
    """
    if not path.startswith("/") or (form := stored(path)) != path or Path(path).exists():
        return stored(path) if path.startswith("/") else path
    if output := re.fullmatch(r".*/(\d+/output(?:/.*)?)", path):
        form = f"runs:{output[1]}"
    elif shipped := re.fullmatch(r".*/(demo/tiny_model)", path):
        form = f"checkout:{shipped[1]}"
    return form if Path(resolve(form)).exists() else path


def is_stored(value: str) -> bool:
    return value.partition(":")[0] in roots() and ":" in value


def resolve(value: str) -> str:
    """Return the absolute path for a stored path. Other values are returned unchanged."""
    if not is_stored(value):
        return value
    name, _, path = value.partition(":")
    return str(roots()[name] / path)


def is_folder(value: str) -> bool:
    """Return whether a value names a folder instead of a model on Hugging Face."""
    return is_stored(value) or value.startswith("/")


def check(value: str, *, digests: bool = False) -> None:
    """Raise MissingFiles unless the folder exists and contains the files that its run published.

    With `digests`, the SHA-256 digests are compared too, which reads every byte. Names of models on
    Hugging Face are not checked.
    """
    if not is_folder(value):
        return
    folder = Path(resolve(value))
    if not folder.is_dir() and not _is_published(folder):
        raise MissingFiles(missing_folder(folder))
    if output := OUTPUT.fullmatch(value):
        problem = problem_of(Artifact.objects.filter(run_id=int(output[1])), digests=digests)
        if problem:
            raise MissingFiles(
                f"{problem} Restore {folder} from a backup, or train the model again."
            )


def _is_published(folder: Path) -> bool:
    try:
        return files.is_published(folder)
    except StorageError as problem:
        raise MissingFiles(str(problem)) from None


def fetch(value: str) -> str:
    """Return the absolute path for a stored path, as `resolve` does, with its files on this machine.

    Without an object store this costs nothing, otherwise two requests, and the download if another
    machine wrote the files. Raises MissingFiles.
    """
    path = resolve(value)
    if is_stored(value):
        try:
            files.fetch(path)
        except StorageError as problem:
            raise MissingFiles(str(problem)) from None
    return path


def fetch_file(value: str, *names: str) -> None:
    """Copy small files of a folder to this machine for a page that shows what they say."""
    if is_stored(value):
        for name in names:
            files.fetch_quietly(Path(resolve(value), name))


def problem_of(artifacts: Iterable[Artifact], *, digests: bool) -> str | None:
    """Return a sentence about the first missing or changed file, or None."""
    for artifact in artifacts:
        path = Path(resolve(artifact.path))
        paths = files_of(path)
        if not paths:
            if _is_stored_as_published(path, artifact):
                continue
            return f"{path} is missing."
        try:
            size = sum(file.stat().st_size for file in paths)
            digest = digest_of(path, paths) if digests else artifact.sha256
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}."
        if size != artifact.bytes or digest != artifact.sha256:
            return f"{path} was altered after the run published it."
    return None


def _is_stored_as_published(path: Path, artifact: Artifact) -> bool:
    """Return whether an artifact that is not on this machine is in the object store, by its manifest."""
    try:
        entries = files.entries_below(path)
    except StorageError as problem:
        raise MissingFiles(str(problem)) from None
    if len(entries) == 1 and "" in entries:
        digest = entries[""].sha256
    else:
        digest = digest_of_listing(
            (PurePath(path.name, name), entry.sha256) for name, entry in entries.items()
        )
    size = sum(entry.bytes for entry in entries.values())
    return bool(entries) and size == artifact.bytes and digest == artifact.sha256


def files_of(path: Path) -> list[Path]:
    """Return the files in a folder in order, the file itself, or an empty list if nothing exists."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def digest_of(path: Path, files: list[Path]) -> str:
    """Return the SHA-256 of a file, or that of the output of `sha256sum` for all files in a folder."""
    if path.is_file():
        return sha256(path)
    return digest_of_listing((file.relative_to(path.parent), sha256(file)) for file in files)


def digest_of_listing(digests: Iterable[tuple[PurePath, str]]) -> str:
    """Return the SHA-256 of the output of `sha256sum` for these files, sorted by path."""
    listing = "".join(f"{digest}  {path}\n" for path, digest in sorted(digests))
    return hashlib.sha256(listing.encode()).hexdigest()
