"""Writing the files and the model card of a trained model."""
