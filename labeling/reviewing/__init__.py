"""The pages on which reviewers rank, and the assignment of their next task."""
