"""Checkouts of earlier commits, for benchmarks that compare two versions."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.support.accelerator import ROOT


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """Yield a temporary checkout of a commit in `folder`. Exits if this clone lacks the commit."""
    path = folder / "before"
    git = ["git", "-C", str(ROOT), "worktree"]
    added = subprocess.run(
        [*git, "add", "--quiet", "--detach", str(path), commit], capture_output=True, text=True
    )
    if added.returncode:
        raise SystemExit(
            f"Commit {commit} cannot be checked out. If this clone has only a part of the history, "
            f"run `git fetch --unshallow`. git reported: {added.stderr.strip()}"
        )
    try:
        yield path
    finally:
        subprocess.run([*git, "remove", "--force", str(path)], check=True)
