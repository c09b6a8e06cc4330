"""Rankings: content, submission, revision, undo, and the number of rankings per task."""
