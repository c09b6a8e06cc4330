"""Measure what the forecast of a run needs.

    python -m recipes.preflight RUN_DIR --recipe finetune.training.train

RUN_DIR has run.json and data/, as for the recipe. The recipe is rehearsed in a temporary folder inside
it. The result is RUN_DIR/measurement.json, from which recipes/preflight/forecast.py forecasts the run
for any number of epochs. The last line of stdout is the forecast for the settings in run.json, as JSON.
The exit status is 0, 1 for a run that would fail, and 3 if a rehearsal runs out of memory.

Several GPUs are not used: each process of a run on several GPUs has its own copy of the model and needs
as much memory as on one.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from recipes.errors import RecipeError
from recipes.preflight.forecast import MEASUREMENT, OUT_OF_MEMORY, forecast
from recipes.preflight.measuring import measure
from recipes.preflight.rehearsal import DoesNotFit
from recipes.rundir import RunDir, RunDirError, write_atomically
from recipes.runner import quiet_libraries
from recipes.settings import ConfigError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path, help="the run directory, with run.json and data/")
    parser.add_argument(
        "--recipe",
        required=True,
        metavar="MODULE",
        help="the recipe, such as reward.training.train",
    )
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns about forks
    quiet_libraries()
    run_dir = RunDir(options.run_dir)
    scratch = run_dir.path / "rehearsals"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        spec = run_dir.spec()
        scratch.mkdir()
        measured = measure(run_dir, options.recipe, scratch)
    except DoesNotFit as problem:
        print(problem, file=sys.stderr)
        return OUT_OF_MEMORY
    except (RecipeError, RunDirError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    write_atomically(run_dir.path / MEASUREMENT, json.dumps(measured.to_dict()) + "\n")
    print(json.dumps(asdict(forecast(measured, spec["kind"], spec["config"]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
