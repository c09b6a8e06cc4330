"""Disputes between reviewers, decisions by leads, and relabelling after guideline changes."""
