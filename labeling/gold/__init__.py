"""Gold tasks, whose answers are known, and the qualification of reviewers with them."""
