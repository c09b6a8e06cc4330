"""Disputes between reviewers, leads' decisions, and ranking tasks again after guideline changes.

Which tasks are disputed is defined in `labeling/statistics/disputes.py`.
"""
