"""The training loop of all recipes: the trainer, its callbacks and its checkpoints."""
