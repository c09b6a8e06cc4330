"""The parts of benchmarks/real_model.py."""
