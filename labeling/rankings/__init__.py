"""Rankings: their content, submission, revision and undo, and their number per task."""
