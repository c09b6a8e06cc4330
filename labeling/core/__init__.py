"""Modules that the other parts of labeling share: text, response letters, charts and access."""
