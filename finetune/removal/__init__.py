"""Erasing content and deleting projects, with their models and files."""
