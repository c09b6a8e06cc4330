"""Supervision of a run: its process, its lease, its directory and its events.

Start with `supervisor.py`, which supervises a run from claim to end. `child.py` and `watchdog.py` start
and kill the recipe's process, `workspace.py` lays out its directory, `events.py` copies its
events, `slots.py` limits how many recipes a machine runs, and `gpus.py` gives each its own GPUs.
"""
