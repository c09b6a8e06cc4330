"""The review pages, and the choice of a reviewer's next task."""
