"""A real live server in this process, for tests of chats."""

from collections.abc import Iterator
from threading import Thread

import pytest
import uvicorn
from django.db import connections

from config.local.processes import free_port

SECONDS = 60


@pytest.fixture
def live(db: None) -> Iterator[int]:
    """Serve config.asgi in this process, and return its port."""
    from config.asgi import application

    port = free_port(23000)
    config = uvicorn.Config(
        application, host="127.0.0.1", port=port, lifespan="off", log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield port
    server.should_exit = True
    thread.join(SECONDS)
    connections.close_all()
