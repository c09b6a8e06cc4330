"""Reward models: their loading, adapters and scores, and a check of the forward pass."""
