"""Guidelines: versions, forms, and reviewers' confirmations."""
