"""Chats on the model server (`../serve.py`).

`service.py` speaks gRPC, and needs no torch. It submits jobs to the engine in `serving/server/`. The job
that answers a chat is in `answers.py`, and loads its model with `loaded.py`.
"""
