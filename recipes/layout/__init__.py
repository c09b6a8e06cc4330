"""Shared-prompt batches: the layout, its attention, and the model families that support it.

Start with `collate.py`, which lays out a batch. `attention.py` chooses the attention for it,
`flex.py` implements it for CUDA, and `families.py` checks on the run's first batch that a model gives
the same result as without sharing.
"""
