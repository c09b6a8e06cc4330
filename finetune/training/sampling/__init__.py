"""Sampling of responses: the distribution of the next token, and batches of requests."""
