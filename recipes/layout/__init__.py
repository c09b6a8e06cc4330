"""Batches in which the responses to a prompt share it, and the attention for them.

Start with `collate.py`, which arranges the tokens of a batch. `attention.py` chooses the attention
for it, and `flex.py` implements the attention for CUDA. On the first batch of a run, `families.py`
checks that the model gives the same result as with one copy of the prompt per response.
"""
