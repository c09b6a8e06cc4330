"""Run kinds. Each app registers its kinds in `AppConfig.ready`, so `runs` need not import the apps.

To add a run kind:

1. Write the recipe, a module that runs as `python -m MODULE RUN_DIR` and imports neither Django nor a
   database driver. Its entry point is in `recipes/runner.py`; `finetune/training/generate.py` is a
   short example.
2. Declare its settings as a `RecipeConfig` (recipes/settings.py). The launch form, `--set` and run.json
   are derived from it.
3. Write `prepare`, which copies rows into the run directory, and `finish`, which creates rows from its
   output.
4. Create a `RunKind` with a form for the inputs, and register it in the app's `kinds.py`, as in
   `finetune/kinds.py`.
5. Add a management command, as in `finetune/management/commands/generate.py`, and describe the kind and
   the command in docs/commands.md.

Supervision, cancelling, resuming, progress, curves and downloads then work without further code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django import forms

from recipes.rundir import RunDir
from recipes.settings import RecipeConfig
from runs.models import Run

Inputs = dict[str, Any]
Config = dict[str, Any]


class CannotRun(Exception):  # noqa: N818
    """Raised if a run cannot continue. The run's page shows the message."""


class NoInputs(forms.Form):
    """The inputs form for a kind that needs no inputs, only settings."""

    def inputs(self) -> Inputs:
        return {}


def _nothing(inputs: Inputs) -> dict[str, Any]:
    return {}


def _unchanged(config: Config) -> Config:
    return config


def _no_project(inputs: Inputs) -> int | None:
    return None


def _no_links(run: Run) -> list[tuple[str, str]]:
    return []


def _no_figure(result: dict[str, Any]) -> str:
    return ""


@dataclass(frozen=True)
class RunKind:
    """The functions and names with which `runs` starts, supervises and finishes runs of one kind.

    prepare      Writes the recipe's input to `run_dir.data` before the first attempt. If it crashes, it
                 is called again with an empty `data/`. Returns None, or a dict of hashes and counts that
                 is added to `inputs` in run.json. Raises CannotRun.
    finish       Creates rows from `run_dir.output`. It is called once, in the transaction in which the
                 run succeeds. Returns the result that the page shows. Raises CannotRun.
    project_of   Returns the id of the inputs' project, whose leads may see the run. If it is None, only
                 trainers may see the run. It is called after `from_inputs` has accepted the inputs.
    inputs_form  A form class whose method `inputs()` returns `run.inputs`.
    from_inputs  Returns the settings that the inputs determine, such as the folder of the chosen model.
                 Raises CannotRun.
    decided      Names of the settings that `from_inputs` returns. The form leaves them out.
    checked      Checks the config before the run is queued. Returns it in the form in which it is stored,
                 for example with absolute paths. Raises ConfigError.
    folders      Names of settings that contain a folder or a model. Rows store them relative to a storage
                 root (runs.storage). They are checked before a run is queued and before it starts.
    figure       Returns the most important number in a result, for the list of runs.
    shares       Names of the metrics and results that are shares. Pages show them as percentages.
    links        Returns (label, URL) for the pages that show the output of a successful run.
    multi_gpu    Whether the recipe can use several GPUs, with one process for each.
    uses_gpu     Whether the recipe uses a GPU. If not, it does not wait for one.
    """

    name: str
    title: str
    description: str
    config_class: type[RecipeConfig]
    module: str
    prepare: Callable[[Run, RunDir], dict[str, Any] | None]
    finish: Callable[[Run, RunDir], dict[str, Any]]
    project_of: Callable[[Inputs], int | None] = _no_project
    inputs_form: Callable[..., Any] = NoInputs
    from_inputs: Callable[[Inputs], dict[str, Any]] = _nothing
    decided: frozenset[str] = frozenset()
    checked: Callable[[Config], Config] = _unchanged
    folders: frozenset[str] = frozenset()
    figure: Callable[[dict[str, Any]], str] = _no_figure
    shares: frozenset[str] = frozenset()
    links: Callable[[Run], list[tuple[str, str]]] = _no_links
    multi_gpu: bool = False
    uses_gpu: bool = True


_kinds: dict[str, RunKind] = {}


def register(kind: RunKind) -> None:
    if _kinds.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"Two run kinds have the name {kind.name!r}.")


def get(name: str) -> RunKind:
    """Return the kind with this name. Raises CannotRun if no installed app has it."""
    try:
        return _kinds[name]
    except KeyError:
        names = ", ".join(sorted(_kinds)) or "none"
        raise CannotRun(f"There is no run kind {name!r}. Available kinds: {names}.") from None


def names_with_title(text: str) -> list[str]:
    """Return the names of the kinds whose title contains the text in any case."""
    return [kind.name for kind in all_kinds() if text.casefold() in kind.title.casefold()]


def all_kinds() -> list[RunKind]:
    """Return all kinds in the order in which they were registered, which is that of the workflow."""
    return list(_kinds.values())
