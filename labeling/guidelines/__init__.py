"""Guidelines: their versions, their forms, and their confirmation by reviewers."""
