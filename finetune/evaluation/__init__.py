"""Evaluations: two models answer the same prompts, and a judge compares the answers.

Start with `runs.py`. `win_rate.py` and `evidence.py` compute the statistics, and `judges.py` defines
the judges.
"""
