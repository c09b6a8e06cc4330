"""Projects: creating, configuring, staffing and archiving them."""
