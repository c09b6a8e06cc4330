"""The comparison of written files by a new process, which knows only what is on the disk."""

import subprocess
import sys
from pathlib import Path

from recipes.errors import RecipeError

ROOT = Path(__file__).parents[2]


def number_from_new_process(what: str, module: str, *paths: Path) -> float:
    """Run a module with paths as arguments, and return the number on its last line.

    `what` is the subject of the error, such as "The export". Raises RecipeError with the last line of the
    module's errors. Costs the start of a process with the imports of the module.
    """
    process = subprocess.run(
        [sys.executable, "-m", module, *map(str, paths)], cwd=ROOT, capture_output=True, text=True
    )
    lines = process.stderr.strip().splitlines()
    if process.returncode or not process.stdout.strip():
        reason = lines[-1] if lines else f"it ended with status {process.returncode}."
        raise RecipeError(f"{what} could not be checked: {reason} Nothing was published.")
    return float(process.stdout.split()[-1])
