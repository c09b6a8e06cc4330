"""Supervision of a run: its process, lease, directory and events.

Start reading with `supervisor.py`, which supervises a run from the claim to the end. `child.py` and
`watchdog.py` start and kill the recipe's process, `workspace.py` creates its directory, `events.py`
copies its events, `machine_slots.py` limits how many recipes run on a machine, and `gpus.py` gives each of them
its own GPUs.
"""
