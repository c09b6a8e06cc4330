"""Supervision of a run: its process, its lease, its directory and its events."""
