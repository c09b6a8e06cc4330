"""Forecasts of the memory and the time of a training run, measured before the run is queued.

`python -m recipes.preflight RUN_DIR` rehearses the run: it runs the recipe itself for four steps, with
the longest prompts of the run, on copies of the model that have fewer layers. `shortening.py` makes
the copies, `sample.py` chooses the prompts, and `rehearsal.py` runs the recipe and measures each of its
stages. `forecast.py` extrapolates to the whole model and the whole data. It needs no torch, so the web
can import it.
"""
