"""The review pages and the assignment of a reviewer's next task."""
