"""Scores of a reward model, which are stored for a project or served over the API."""
