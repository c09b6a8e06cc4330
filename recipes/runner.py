"""Run a recipe on a run directory: a function of (RunDir, StopSignal).

`run_recipe` turns how it ends into the events and the exit status that a supervisor understands.
"""

import argparse
import logging
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress

from recipes import faults, processes
from recipes.errors import RecipeError, RestartRequired, Stopped
from recipes.report import Provenance
from recipes.rundir import AGAIN, STOPPED, TRAINER_FOLDER, RunDir, RunDirError, versions
from recipes.settings import ConfigError, RecipeConfig
from recipes.stopping import StopSignal


def run_recipe(recipe: Callable[[RunDir, StopSignal], None], description: str) -> int:
    """Run a recipe on the folder named on the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", help="the run directory: run.json, data/, and what is made")
    run_dir = processes.run_dir_for(parser.parse_args().run_dir)
    stop = StopSignal()
    stop.listen()
    processes.leave_with_the_first(run_dir)
    processes.keep_to_one_gpu()
    quiet_libraries()
    try:
        if run_dir.path.is_dir():
            run_dir.stage("Reading the data")
        recipe(run_dir, stop)
    except Stopped:
        sentence = "Stopped as asked. The same command goes on from the last checkpoint."
        processes.tell_ending(run_dir, STOPPED, sentence, "info")
        return STOPPED
    except RestartRequired as error:
        print(error, file=sys.stderr)
        processes.tell_ending(run_dir, AGAIN, str(error), "warning")
        return AGAIN
    except (RecipeError, RunDirError, ConfigError) as error:
        return _failed(run_dir, str(error))
    except Exception as error:
        traceback.print_exc()
        problem = faults.storage_problem(error, run_dir.path)
        discard_drafts(run_dir)
        return _failed(run_dir, problem or f"{type(error).__name__}: {error}")
    return 0


def _failed(run_dir: RunDir, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    with suppress(OSError):  # a missing folder or a full disk takes no event; the supervisor looks
        processes.tell_ending(run_dir, 1, sentence, "error")
    return 1


def quiet_libraries() -> None:
    """Events say what happens; progress bars and advice on stderr would only hide an error."""
    import datasets
    import transformers

    warnings.simplefilter("ignore", FutureWarning)  # between TRL and transformers, not ours
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)


def provenance(run_dir: RunDir, config: RecipeConfig, *, started: float) -> Provenance:
    """The end of a report: what the run was made from. `started` is by the monotonic clock."""
    return {
        "config": config.to_dict(),
        "inputs": run_dir.spec().get("inputs", {}),
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 2),
    }


def discard_drafts(run_dir: RunDir) -> None:
    """Remove the half-written checkpoint, which on a full disk is in the way of everything."""
    if not processes.rank():
        shutil.rmtree(run_dir.checkpoints / TRAINER_FOLDER, ignore_errors=True)
