"""Tasks on which reviewers disagree, and the decisions of leads."""
