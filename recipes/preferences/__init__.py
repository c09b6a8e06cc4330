"""Preference data and losses: from ranked groups of responses to the objective of a run.

Start with `groups.py`, which describes the data. `tokens.py` turns groups into tokens, `loss_inputs.py`
turns judgments into the matrices that `loss.py` reads, and `objective.py` chooses the losses by the
settings.
"""
