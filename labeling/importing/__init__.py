"""Imports of files. The web receives a file, and a worker reads it and stores its rows after a preview.

The preview is an import that is rolled back (`process.py`). `report.py` describes it, and
`labeling/pages/imports.py` shows it.
"""
