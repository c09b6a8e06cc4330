"""Snapshots of rankings, and their exports."""
