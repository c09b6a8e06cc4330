"""Recipes that train reward models and score responses with them.

Each module here that ends with `if __name__ == "__main__"` runs as `python -m reward.training.NAME`. Start with `train.py`,
which leads from a run directory to a reward model. `score.py` scores responses, `score_rows.py`
the rows of a file, and `score_project.py` all responses of a project. `rewardbench.py` evaluates a
model, `merge.py` merges it into a plain folder, and `onnx.py` exports it to ONNX. `serving/` scores for
the model server.
"""

import os

# Threads that spin while they wait make a recipe six times slower on a busy machine. OpenMP reads
# this variable when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
