"""How the web and the scorer talk: JSON objects over a Unix socket, each after its length in 4 bytes.

Needs neither Django nor torch. One question and one answer a connection.

    question  {"model": folder, "conversations": [[messages, [response, …]], …], "seconds": 30}
    answer    {"verdicts": [{"scores": [float or null], "uncertainties": […]}, …],
               "limit": tokens the model reads, "forwarded": tokens it was shown}
    or        {"error": "busy" | "late" | "memory" | "model" | "failed", "text": sentence}

    question  {"ping": true}, answered immediately, whatever the scorer is busy with
    answer    {"pong": true}
"""

import json
import socket
import struct
from pathlib import Path
from typing import Any

LENGTH = struct.Struct(">I")
LARGEST_MESSAGE = 64_000_000
LONGEST_PATH = 100
"""Bytes; the operating system takes a few more."""


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Raises OSError when the other side has gone, ValueError when the message is too large."""
    data = json.dumps(message).encode()
    if len(data) > LARGEST_MESSAGE:
        raise ValueError(f"The message has {len(data)} bytes; {LARGEST_MESSAGE} are the most.")
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> dict[str, Any]:
    """Raises ConnectionError when the other side ends in the middle, ValueError for no message."""
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > LARGEST_MESSAGE:
        raise ValueError(
            f"A message of {length} bytes was announced; {LARGEST_MESSAGE} are the most."
        )
    message = json.loads(_exactly(connection, length))
    if not isinstance(message, dict):
        raise ValueError("The message is not an object.")
    return message


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts, missing = [], count
    while missing:
        part = connection.recv(min(missing, 1 << 20))
        if not part:
            raise ConnectionError("The other side ended in the middle of a message.")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def address(path: Path) -> str:
    """Raises ValueError when the operating system takes no path so long for a socket."""
    if len(str(path).encode()) > LONGEST_PATH:
        raise ValueError(
            f"{path} is too long for a socket; {LONGEST_PATH} bytes are the most. Set "
            "TIEBREAK_SCORER_SOCKET to a shorter path."
        )
    return str(path)
