"""Preference data and losses: from ranked groups of responses to the objective of a run.

Start with `groups.py`, the data. `tokens.py` turns groups into tokens, `evidence.py` turns
judgments into the matrices that `loss.py` reads, and `objective.py` chooses the losses that the
settings ask for.
"""
