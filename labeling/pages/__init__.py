"""The pages of a project for its leads and members."""
