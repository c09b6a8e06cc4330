"""Statistics of rankings, computed with numpy from plain numbers, without Django or the database."""
