"""Disputes between reviewers, leads' decisions, and ranking tasks again after guideline changes."""
