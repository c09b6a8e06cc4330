"""The language models of projects on the model server.

`names.py` finds a model by its name, and returns what `serving.client.Client` needs to ask for it:

    async with Client(settings.MODEL_SERVER) as client:
        events = client.chat(served(model), messages, Sampling(seed=1, max_tokens=256))

It must be called outside the event loop, because it uses the database. docs/model-server.md explains
the rest.
"""
