"""Gold tasks, whose answer is known, and the qualification of reviewers by them."""
