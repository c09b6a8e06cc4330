"""Modules that several benchmarks share, or that one of them is too long without."""
