"""The command-line entry point of recipes, which are functions of (RunDir, StopSignal).

`run_recipe` turns the outcome of a recipe into the events and the exit status that a supervisor
expects.
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

from recipes.errors import RecipeError, RestartRequired, Stopped
from recipes.machine import checks, faults, processes
from recipes.report import Provenance
from recipes.rundir import RESTART, STOPPED, TRAINER_FOLDER, RunDir, RunDirError, versions
from recipes.settings import ConfigError, RecipeConfig
from recipes.stopping import StopSignal
from recipes.tracking.tensorboard import write_tensorboard
from recipes.training_settings import DTYPES


def run_recipe(
    recipe: Callable[[RunDir, StopSignal], None], description: str, *, uses_gpu: bool = True
) -> int:
    """Run a recipe on the run directory named on the command line, and return the exit status.

    Use `uses_gpu=False` for recipes that compute on the CPU even if there is a GPU.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", help="the run directory, with run.json and data/")
    run_dir = processes.run_dir_for(parser.parse_args().run_dir)
    stop = StopSignal()
    stop.listen()
    processes.exit_with_first(run_dir)
    processes.use_one_gpu() if uses_gpu else processes.use_no_gpu()
    quiet_libraries()
    try:
        if run_dir.path.is_dir():
            if not processes.rank():
                write_tensorboard(run_dir)
            begin(run_dir, uses_gpu=uses_gpu)
        recipe(run_dir, stop)
    except Stopped:
        sentence = "Stopped on request. The same command resumes from the last checkpoint."
        processes.report_ending(run_dir, STOPPED, sentence, "info")
        return STOPPED
    except RestartRequired as error:
        print(error, file=sys.stderr)
        processes.report_ending(run_dir, RESTART, str(error), "warning")
        return RESTART
    except (RecipeError, RunDirError, ConfigError) as error:
        return _failed(run_dir, str(error))
    except Exception as error:
        traceback.print_exc()
        problem = faults.storage_problem(error, run_dir.path)
        discard_drafts(run_dir)
        return _failed(run_dir, problem or f"{type(error).__name__}: {error}")
    return 0


def begin(run_dir: RunDir, *, uses_gpu: bool) -> None:
    """Report the device of the run and problems with it. Raises RecipeError if the run would fail."""
    if uses_gpu:
        checks.check(run_dir)
    with suppress(RunDirError):  # the recipe reports a missing run.json
        dtype = run_dir.spec().get("config", {}).get("dtype", "auto")
        if dtype in DTYPES:  # the recipe refuses others, with the name of the setting
            device = checks.device_of(dtype)
            run_dir.message(checks.sentence_about(device))
            run_dir.emit("device", **device)
    run_dir.stage("Starting")


def _failed(run_dir: RunDir, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    with suppress(OSError):  # the supervisor reports missing folders and full disks
        processes.report_ending(run_dir, 1, sentence, "error")
    return 1


def quiet_libraries() -> None:
    """Turn off the progress bars and the advice of libraries, which would hide errors on stderr.

    Events report the progress instead.
    """
    import datasets
    import transformers

    warnings.simplefilter("ignore", FutureWarning)  # about TRL's use of transformers
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)


def provenance(run_dir: RunDir, config: RecipeConfig, *, started: float) -> Provenance:
    """Return the section of the report about the settings, inputs, versions and duration of the run.

    `started` is the time at which the run began, by the monotonic clock.
    """
    return {
        "config": config.to_dict(),
        "inputs": run_dir.spec().get("inputs", {}),
        "versions": versions(),
        "device": checks.device_of(getattr(config, "dtype", "auto")),
        "seconds": round(time.monotonic() - started, 2),
    }


def discard_drafts(run_dir: RunDir) -> None:
    """Delete the incomplete checkpoint. It would keep a full disk full."""
    if not processes.rank():
        shutil.rmtree(run_dir.checkpoints / TRAINER_FOLDER, ignore_errors=True)
