"""Parts of training programs that need neither Django, Celery nor a database.

A run directory (`rundir.py`) is all the input a recipe needs. To read the code, start with a
recipe, `finetune/training/train.py` or `reward/training/train.py`. Its parts are here:

  settings, training_settings   the options of a recipe, for JSON, command line and web form
  preferences/                  groups of ranked responses, their tokens, and the losses
  layout/                       batches in which responses share their prompt, and their attention
  models/                       loading of models, tokenizers, chat templates and adapters
  trainer, trainer_callbacks    transformers.Trainer with our loss, checkpoints and progress
  runner, stopping, errors      the command-line entry point, SIGTERM and exit statuses
  checkpoints, publishing       files that are verified before they are used or published
  memory, processes, faults     out of memory, several GPUs, full disks
"""

import os

# Set here because huggingface_hub reads the variable only when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
