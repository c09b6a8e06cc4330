"""A real model server for tests, in a process of its own, and ways to ask it."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from config.env import BASE_DIR
from serving.address import Server
from serving.client import Client, End, Event, LanguageModel, Piece, Sampling
from tests.forks import Program

START_SECONDS = 60


class Running:
    """A server process at `unix:FOLDER/s`, as a context manager. It stops with the block.

    A forked server starts with torch imported, which saves seconds (tests/forks.py).
    """

    process: subprocess.Popen | Program

    def __init__(
        self, folder: Path, *options: str, server: Server | None = None, forked: bool = False
    ):
        self.server = server or Server(f"unix:{folder}/s")
        self.log = folder / "server.log"
        module = "finetune.training.serve"
        self.command = [sys.executable, "-m", module, self.server.address, *options]
        self.forked = forked
        self.environment = {**os.environ, "TIEBREAK_MODEL_SERVER_TOKEN": self.server.token}

    def __enter__(self) -> "Running":
        self.start()
        return self

    def start(self) -> None:
        """Start the process, also after it was killed."""
        if self.forked:
            self.process = Program(*self.command[2:], log=self.log, variables=self.environment)
        else:
            with self.log.open("ab") as output:
                self.process = subprocess.Popen(
                    self.command, cwd=BASE_DIR, env=self.environment, stdout=output, stderr=output
                )
        self.wait()

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait(20)

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Wait until the server answers the health check."""
        deadline = time.monotonic() + seconds
        while not self._is_healthy():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)

    def _is_healthy(self) -> bool:
        """Ask without an event loop, because Playwright already runs one in browser tests."""
        with self.server.channel(grpc) as channel:
            try:
                reply = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=2
                )
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def ask(
        self, model: LanguageModel, text: str, sampling: Sampling | None = None, **more: Any
    ) -> list[Event]:
        return asyncio.run(events_of(self.server, model, text, sampling, **more))


async def events_of(
    server: Server, model: LanguageModel, text: str, sampling: Sampling | None = None, **more: Any
) -> list[Event]:
    messages = [{"role": "user", "content": text}]
    async with (
        Client(server) as client,
        aclosing(
            client.chat(model, messages, sampling or Sampling(max_tokens=16), **more)
        ) as events,
    ):
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def end_of(events: list[Event]) -> End:
    end = events[-1]
    assert isinstance(end, End)
    return end
