"""Parts of training programs that need neither Django, Celery nor a database.

A run directory (`rundir.py`) is all the input a recipe needs. To read the code, start with a
recipe, `finetune/training/train.py` or `reward/training/train.py`. Its parts are here, the upper
layers first:

  runner, stopping, errors      the command-line entry point, SIGTERM and exit statuses
  publishing/                   the files of a trained model, which are verified, and model cards
  training/                     transformers.Trainer with our loss, its progress and checkpoints
  layout/                       batches in which responses share their prompt, and their attention
  preferences/                  groups of ranked responses, their tokens, and the losses
  machine/                      checks of the GPUs, memory, several processes, full disks
  models/                       loading of models, tokenizers, chat templates and adapters
  settings, training_settings   the options of a recipe, for JSON, command line and web form
  rundir, report                the files of a run
"""

import os

# These are set here because huggingface_hub reads the variable only when it is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
