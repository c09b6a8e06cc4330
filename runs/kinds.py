"""Run kinds. Each app registers its kinds in `AppConfig.ready`; `runs` imports none of them.

To add a run kind:

1. Write the recipe, a module run as `python -m MODULE RUN_DIR` that imports neither Django nor a
   database. `recipes/runner.py` has its entry point, and `finetune/training/generate.py` is a
   short example.
2. Declare its settings as a `RecipeConfig` (recipes/settings.py). The launch form, `--set` and
   run.json follow from it.
3. Write `prepare` and `finish`, which copy rows into the run directory and make rows from its
   output.
4. Create a `RunKind` with a form for the inputs, and register it in the app's `kinds.py`, as in
   `finetune/kinds.py`.
5. Add a management command, as in `finetune/management/commands/generate.py`, and describe both in
   docs/commands.md.

Supervision, cancelling, resuming, progress, curves and downloads work for every kind.
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
    """The run cannot continue. The run's page shows the message."""


class NoInputs(forms.Form):
    """The inputs form of a kind that needs only settings."""

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
    """The hooks and names that `runs` needs to start, supervise and finish runs of one kind.

    prepare      Writes the recipe's input to `run_dir.data`, before the first attempt. After a
                 crash it is called again with an empty `data/`. Returns None, or a dict (hashes,
                 counts) that is added to `inputs` in run.json. Raises CannotRun.
    finish       Creates rows from `run_dir.output`, once, in the transaction in which the run
                 succeeds. Returns the result shown on the page. Raises CannotRun.
    project_of   Returns the id of the project that the inputs belong to. Its leads may see the run.
                 If the id is None, only trainers may see the run. Called after `from_inputs` has
                 accepted the inputs.
    inputs_form  A form class whose method `inputs()` returns `run.inputs`.
    from_inputs  Returns the settings that the inputs determine, such as the folder of the chosen
                 model. `decided` names them, and the form leaves them out. Raises CannotRun.
    checked      Checks the config before the run is queued, and returns it as it will be frozen, for
                 example with absolute paths. Raises ConfigError.
    folders      Names of settings that hold a folder or a model. Rows store them relative to a
                 storage root (runs.storage). They are checked before a run is queued and before it
                 starts.
    figure       Returns the most important number of a result, for the list of runs.
    shares       Names of metrics and results that are shares, which pages show as percentages.
    links        Returns (label, URL) of the pages that show the output of a successful run.
    multi_gpu    Whether the recipe can use several GPUs, with one process for each.
    uses_gpu     Whether the recipe uses a GPU at all. If not, it does not wait for one.
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
    """Return the names of the kinds whose title contains the text, ignoring case."""
    return [kind.name for kind in all_kinds() if text.casefold() in kind.title.casefold()]


def all_kinds() -> list[RunKind]:
    """Return all kinds in the order of registration, which is the order of the workflow."""
    return list(_kinds.values())
