"""A project's pages for its leads and members."""
