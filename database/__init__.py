"""Database helpers: prepared statements, lookups and the database's clock."""
