"""The programs that push a model to a hub and pull one from it."""
