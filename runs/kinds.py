"""The kinds of run there are. Each app registers its own in `AppConfig.ready`; `runs` imports none."""

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
    """A run that cannot go on. The text is the sentence that its page shows."""


class NoInputs(forms.Form):
    """For a kind that reads nothing but its settings."""

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
    """What `runs` has to know to start, supervise and end runs of one kind.

    prepare      Writes what the recipe reads into `run_dir.data`, before the first attempt. It is
                 called again from an empty `data/` after a crash in the middle. A dict it returns
                 (hashes, counts) joins `inputs` in run.json. Raises CannotRun.
    finish       Makes rows from `run_dir.output`, once, in the transaction in which the run
                 succeeds; returns the result that the page shows. Raises CannotRun.
    project_of   The id of the project that valid inputs belong to, whose leads may see the run.
                 None: only trainers may. Called after `from_inputs` has accepted the inputs.
    inputs_form  A form class whose method `inputs()` gives `run.inputs` from what was chosen.
    from_inputs  The settings that the inputs decide, such as the folder of the chosen model. They
                 are named in `decided` and are not in the form. Raises CannotRun.
    checked      A valid config as it is frozen, such as with a folder's absolute path, before anything
                 is queued. Raises ConfigError.
    folders      The settings that name a folder or a model. Rows keep them relative to a storage root
                 (runs.storage); they are checked before a run is queued and again before it starts.
    figure       The one number of a result worth a place in the list of runs.
    shares       Names of metrics and results that are shares, which pages show as percentages.
    links        (label, address) of the pages that show what a succeeded run made.
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


_kinds: dict[str, RunKind] = {}


def register(kind: RunKind) -> None:
    if _kinds.setdefault(kind.name, kind) is not kind:
        raise ValueError(f"Two kinds of run are called {kind.name!r}.")


def get(name: str) -> RunKind:
    """Raises CannotRun when no installed app knows the kind."""
    try:
        return _kinds[name]
    except KeyError:
        known = ", ".join(sorted(_kinds)) or "none"
        raise CannotRun(f"No kind of run is called {name!r}. Known are: {known}.") from None


def titled(text: str) -> list[str]:
    """Return the names of the kinds whose title contains the text, in either case."""
    return [kind.name for kind in all_kinds() if text.casefold() in kind.title.casefold()]


def all_kinds() -> list[RunKind]:
    """In the order in which they were registered, which is the order of the loop."""
    return list(_kinds.values())
