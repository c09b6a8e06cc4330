"""Quality of the rankings of a project: agreement, reliability and bias of its reviewers."""
