"""Creating, configuring, staffing and archiving projects."""
