"""Recipes that sample from, train and compare language models.

Each module here runs as `python -m finetune.training.NAME RUN_DIR`. Start with `train.py`, which
leads from a run directory to an adapter. `generate.py` samples responses, `evaluate.py` compares
two models, `online.py` trains in rounds on the model's own samples, `merge.py` merges an adapter
into its base, and `tiny_model.py` trains the demo's model. The folders have the parts they share:
`models/`, `sampling/` and `fitting/`.
"""

import os

# Threads that spin while they wait make a recipe six times slower on a busy machine. OpenMP reads
# this variable when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
