"""Evaluations: two models answer the same prompts, and a judge compares the answers."""
