"""Scores of a reward model: stored for a project, and served over the API."""
