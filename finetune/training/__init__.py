"""Recipes that sample from, train and compare language models.

Each module here that ends with `if __name__ == "__main__"` runs as `python -m finetune.training.NAME RUN_DIR`. Start with
`train.py`, which leads from a run directory to an adapter. `generate.py` samples responses,
`evaluate.py` compares two models, `online.py` trains in rounds on the model's own samples,
`policy_gradient.py` trains with GRPO or RLOO, `merge.py` merges an adapter into its base,
`merge_check.py` compares the merged model with the tuned one, and `tiny_model.py` trains the demo's
model. The other modules and the folders are the parts that these programs share.
"""

import os

# Threads that spin while they wait make a recipe six times slower on a busy machine. OpenMP reads
# this variable when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
