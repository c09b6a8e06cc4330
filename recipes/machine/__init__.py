"""The machine that a run uses: its GPUs, memory, processes and disk."""
