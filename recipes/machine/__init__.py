"""The machine of a run: its GPUs, its memory, its processes and its disk."""
