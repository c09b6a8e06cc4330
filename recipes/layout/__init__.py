"""Shared-prompt batches: the layout, its attention, and the model families that support it."""
