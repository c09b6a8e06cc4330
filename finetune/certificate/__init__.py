"""Certificates of promotions: signed files from which anyone can recompute why a model was promoted.

`contents.py` writes the content from the rows, and `issuing.py` signs it. The other modules check a file.
They need only Python and numpy: `python -m finetune.certificate FILE`.
"""
