"""Modules shared by several benchmarks, and parts of the longest ones."""
