"""Sampling of responses from a model on this machine.

`engines.py` makes an engine, `seeded.py` or `batched.py`. `requests.py` plans what is to be sampled.
`distribution.py` draws tokens, as the model server does too. `decoding.py` continues the rows of a batch, with
a `cache.py`.
"""
