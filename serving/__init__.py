"""The protocol and the client of the model server. It needs neither Django nor torch.

The server is `finetune/training/serve.py`. Start with `client.py`:

    server = Server("unix:/path/to/models.sock")
    async with Client(server) as client:
        async for event in client.chat(model, messages, sampling):
            ...
"""
