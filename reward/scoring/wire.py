"""The protocol between the web and the scorer: JSON objects over a Unix socket.

Each object is preceded by its length, a big-endian integer of 4 bytes. Each connection has one request
and one reply. This module needs neither Django nor torch.

    request  {"model": folder, "conversations": [[messages, [response, …]], …], "seconds": 30}
    reply    {"verdicts": [{"scores": [float or null], "uncertainties": […]}, …],
              "limit": maximum tokens of the model, "forwarded": tokens forwarded}
    or       {"error": "busy" | "late" | "memory" | "model" | "failed", "text": sentence}

    request  {"ping": true}, answered immediately, even by a busy scorer
    reply    {"pong": true}
"""

import json
import socket
import struct
from pathlib import Path
from typing import Any

LENGTH = struct.Struct(">I")
MAX_MESSAGE_BYTES = 64_000_000
MAX_PATH_LENGTH = 100
"""The maximum length of a path in bytes, slightly below the limit of the operating system."""


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message.

    Raises OSError if the other side has disconnected, and ValueError if the message is too large.
    """
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"The message has {len(data)} bytes; the limit is {MAX_MESSAGE_BYTES}.")
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> dict[str, Any]:
    """Return the next message.

    Raises ConnectionError if the message is incomplete, and ValueError if it is not valid.
    """
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"The message has {length} bytes; the limit is {MAX_MESSAGE_BYTES}.")
    message = json.loads(_exactly(connection, length))
    if not isinstance(message, dict):
        raise ValueError("The message is not an object.")
    return message


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts, missing = [], count
    while missing:
        part = connection.recv(min(missing, 1 << 20))
        if not part:
            raise ConnectionError("The connection ended in the middle of a message.")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def address(path: Path) -> str:
    """Return the path as the address of a socket. Raises ValueError if it is too long."""
    if len(str(path).encode()) > MAX_PATH_LENGTH:
        raise ValueError(
            f"{path} is too long for a socket; the limit is {MAX_PATH_LENGTH} bytes. Set "
            "TIEBREAK_SCORER_SOCKET to a shorter path."
        )
    return str(path)
