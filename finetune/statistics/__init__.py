"""Figures of answers and verdicts, and what the verdicts prove at any time.

`certificate` uses the modules for evidence, length control, reviewers and regression sets. They need only
numpy, so that a certificate can be checked without Django.
"""
