"""Projects: creation, settings, members and archiving."""
