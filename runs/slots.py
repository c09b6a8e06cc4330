"""How many recipes one machine runs at a time, whatever the number of its workers and threads."""

import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings


@contextmanager
def one() -> Iterator[bool]:
    """Hold one of the machine's places; False when all are taken. A dead holder's is free."""
    folder = settings.VAR_DIR / "slots"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(settings.RUNS_AT_ONCE):
        with (folder / f"{socket.gethostname()}-{number}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield True
            return
    yield False
