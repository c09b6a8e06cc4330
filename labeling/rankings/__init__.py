"""Rankings: submitted, revised, undone, and collected until a task has enough."""
