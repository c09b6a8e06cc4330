"""The queue: tasks, their slots and leases, and the order in which tasks are given out."""
