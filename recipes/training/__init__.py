"""The training loop that all recipes use: the trainer, its callbacks and its checkpoints."""
