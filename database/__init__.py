"""Helpers for the database: prepared statements and its clock."""
