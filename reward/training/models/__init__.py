"""Reward models: loading, adapters, scores and a check of the forward pass."""
