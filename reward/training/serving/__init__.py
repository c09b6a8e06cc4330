"""Scores on the model server (`finetune/training/serve.py`).

`service.py` speaks gRPC, and needs no torch. It submits jobs to the engine in `serving/server/`. The job
that scores responses is in `scoring.py`, and loads its model with `loaded.py`.
"""
