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
from django.utils.safestring import SafeString

from recipes.rundir import RunDir
from recipes.settings import RecipeConfig
from runs.models import Run

Inputs = dict[str, Any]
Config = dict[str, Any]


class CannotRun(Exception):  # noqa: N818
    """Raised if a run cannot continue. The run's page shows the message."""


class InputsForm(forms.Form):
    """The base class of the forms for the inputs of a run.

    `projects` is a query of the projects from whose rows the form offers a choice. None means all, for
    commands, which the operator starts.
    """

    def __init__(self, *args: Any, projects: Any = None, **kwargs: Any):
        self.projects = projects
        super().__init__(*args, **kwargs)

    def inputs(self) -> Inputs:
        raise NotImplementedError


class NoInputs(InputsForm):
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


def _no_variables(run: Run, run_dir: RunDir) -> dict[str, str]:
    return {}


def _no_answers(runs: list[Run]) -> dict[int, list["Answer"]]:
    return {}


def _no_command(inputs: Inputs, config: Config) -> list[str]:
    return []


def _no_figure(result: dict[str, Any]) -> str:
    return ""


@dataclass(frozen=True)
class Answer:
    """An answer of a run's model to a prompt, for the comparison of runs.

    `prompt` identifies the prompt in all runs. `messages` has (role, text) of its messages. Texts are
    plain, or HTML that `labeling.core.text` has rendered. `note` says where the answer comes from.
    """

    prompt: str
    messages: list[tuple[str, str]]
    text: str
    note: str = ""

    @property
    def is_plain(self) -> bool:
        return not isinstance(self.text, SafeString)


TRAINING, RESPONSES, EVALUATION, FILES = (
    "Training",
    "Responses and scores",
    "Evaluation",
    "Model files",
)
GROUPS = (TRAINING, RESPONSES, EVALUATION, FILES)


@dataclass(frozen=True)
class RunKind:
    """The functions and names with which `runs` starts, supervises and finishes runs of one kind.

    prepare      Writes the recipe's input to `run_dir.data` before the first attempt. If it crashes, it
                 is called again with an empty `data/`. Returns None, or a dict of hashes and counts that
                 is added to `inputs` in run.json. Raises CannotRun.
    finish       Creates rows from `run_dir.output`. It is called once, in the transaction in which the
                 run succeeds. Returns the result that the page shows. Raises CannotRun.
    project_of   Returns the id of the inputs' project, whose leads may see the run. If it is None, only
                 leads and trainers of all projects may see the run. It is called after `from_inputs` has accepted the inputs.
    inputs_form  A subclass of InputsForm. Its method `inputs()` returns `run.inputs`.
    from_inputs  Returns the settings that the inputs determine, such as the folder of the chosen model.
                 Raises CannotRun.
    decided      Names of the settings that `from_inputs` returns. The form leaves them out.
    checked      Checks the config before the run is queued. Returns it in the form in which it is stored,
                 for example with absolute paths. Raises ConfigError.
    command      Returns the name and the arguments of the management command that starts such a run with
                 these inputs and this config. The options of all commands, such as --set, are left out
                 (runs.launching.command_line). It may query the database.
    arguments    Names of settings for which the command has an argument of its own instead of --set.
    folders      Names of settings that contain a folder or a model. Rows store them relative to a storage
                 root (runs.storage). They are checked before a run is queued and before it starts.
    figure       Returns the most important number in a result, for the list of runs.
    shares       Names of the metrics and results that are shares. Pages show them as percentages.
    links        Returns (label, URL) for the pages that show the output of a successful run.
    answers      Returns answers of the runs' models to prompts, by the id of the run, for the comparison of
                 runs. It gets all runs of the comparison that share the function.
    variables    Returns environment variables that the recipe sees in addition to the allowed ones
                 (runs.supervision.environment), such as a key. It is called before each attempt. Raises
                 CannotRun.
    first_batch  A module that prints the first batch of a run directory (recipes/preferences/first_batch.py),
                 or "" if runs of this kind do not train.
    multi_gpu    Whether the recipe can use several GPUs, with one process for each.
    uses_gpu     Whether the recipe uses a GPU. If not, it does not wait for one.
    forecast     Whether the memory and time of a run can be forecast. Its module has the recipe as RECIPE.
    group        The heading under which the kind is offered for a new run.
    """

    name: str
    title: str
    description: str
    config_class: type[RecipeConfig]
    module: str
    prepare: Callable[[Run, RunDir], dict[str, Any] | None]
    finish: Callable[[Run, RunDir], dict[str, Any]]
    project_of: Callable[[Inputs], int | None] = _no_project
    inputs_form: type[InputsForm] = NoInputs
    from_inputs: Callable[[Inputs], dict[str, Any]] = _nothing
    decided: frozenset[str] = frozenset()
    checked: Callable[[Config], Config] = _unchanged
    command: Callable[[Inputs, Config], list[str]] = _no_command
    arguments: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    figure: Callable[[dict[str, Any]], str] = _no_figure
    shares: frozenset[str] = frozenset()
    links: Callable[[Run], list[tuple[str, str]]] = _no_links
    answers: Callable[[list[Run]], dict[int, list[Answer]]] = _no_answers
    variables: Callable[[Run, RunDir], dict[str, str]] = _no_variables
    first_batch: str = ""
    multi_gpu: bool = False
    uses_gpu: bool = True
    forecast: bool = False
    group: str = TRAINING


def options_of(**values: Any) -> list[str]:
    """Return command-line options, such as ["--limit", "3", "--order"] for `limit=3, order=True`.

    None, False and "" leave out an option.
    """
    options: list[str] = []
    for name, value in values.items():
        if value is None or value is False or value == "":
            continue
        option = f"--{name.replace('_', '-')}"
        if value is True:
            options.append(option)
        elif str(value).startswith("-"):  # argparse would read it as another option
            options.append(f"{option}={value}")
        else:
            options += [option, str(value)]
    return options


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


def by_group() -> list[tuple[str, list[RunKind]]]:
    """Return the groups that have kinds, each with its kinds in the order of `all_kinds`."""
    groups = [(group, [k for k in all_kinds() if k.group == group]) for group in GROUPS]
    return [(group, members) for group, members in groups if members]


def all_kinds() -> list[RunKind]:
    """Return all kinds in the order in which they were registered, which is that of the workflow."""
    return list(_kinds.values())
