"""Publishing of a trained model: its files and its model card."""
