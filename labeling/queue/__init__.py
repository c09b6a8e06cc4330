"""The queue: tasks, their slots, leases, and the order in which tasks are given out."""
