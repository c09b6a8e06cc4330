"""Erasing content and people permanently, and deleting projects, with their models and files.

`erasing.py` and `deletion.py` do the work; `views.py` has the administrators' pages.
"""
