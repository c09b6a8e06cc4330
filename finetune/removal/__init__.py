"""Erasing content and people permanently, and deleting projects, with their models and files.

`erasing.py` and `deletion.py` do the work, and `views.py` has the pages for administrators.
"""
