"""Parts of the model server that know no kind of model, and need no torch.

`process.py` opens the address, and runs and restarts the process. `calls.py` checks and ends calls of
gRPC. They submit jobs to `engine.py`, whose single thread owns the models in `memory.py`.
"""
