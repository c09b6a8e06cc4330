"""The checks of `python -m benchmarks.gpu_check`, with their models and data."""
