"""The quality of a project's rankings: its reviewers' agreement, reliability and biases."""
