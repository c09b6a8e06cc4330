"""Trackers: TensorBoard, MLflow and Weights & Biases follow the curves of a run."""
