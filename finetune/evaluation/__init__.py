"""Evaluations: two models answer the same prompts, and a judge or people compare the answers.

Start with `runs.py`. `win_rate.py` has the estimates, `judges.py` the judges, and `finetune/statistics/evidence.py`
the conclusions.
"""
