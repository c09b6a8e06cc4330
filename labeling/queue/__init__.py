"""The queue: slots, who holds them, and the order in which tasks are given out."""
