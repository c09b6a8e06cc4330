"""Tests of restarts of the local servers."""

import json
import os
import signal
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from config.local.supervision import Restarts, sentence
from tests.config.local.test_local_services import environment, hold, stop, wait_until

assert environment


class Servers:
    def __init__(self, var: Path):
        self.var = var
        self.urls = json.loads((var / "local/services.json").read_text())
        self.keeper = psutil.Process(self.urls["pid"])

    def pid(self, name: str) -> int:
        return next((p.pid for p in self.keeper.children() if name in p.name()), 0)

    def zombies(self) -> list[psutil.Process]:
        children = self.keeper.children(recursive=True)
        return [p for p in children if p.status() == psutil.STATUS_ZOMBIE]

    def database_answers(self) -> bool:
        try:
            with psycopg.connect(self.urls["database_url"], connect_timeout=2) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    @property
    def redis_path(self) -> str:
        return self.urls["redis_url"].removeprefix("redis+socket://")

    def redis_answers(self) -> bool:
        try:
            return bool(redis.Redis(unix_socket_path=self.redis_path, socket_timeout=1).ping())
        except (redis.RedisError, OSError):
            return False


def test_only_a_killed_server_is_restarted_and_both_end_with_the_keeper(
    environment: dict[str, str], folder: Path
) -> None:
    user = hold(environment)
    servers = Servers(folder / "var")
    queue = redis.Redis(unix_socket_path=servers.redis_path)
    queue.rpush("queue", "message")
    queue.execute_command("WAITAOF", 1, 0, 5000)  # it is stored on disk
    for killed, other in [("valkey", "postgres"), ("postgres", "valkey")] * 2:
        before, untouched = servers.pid(killed), servers.pid(other)
        assert before and untouched
        os.kill(before, signal.SIGKILL)
        wait_until(lambda k=killed, b=before: servers.pid(k) not in {0, b}, "it is not back")
        wait_until(servers.database_answers, "the database did not come back")
        wait_until(servers.redis_answers, "Redis did not come back")
        assert servers.pid(other) == untouched
    assert not servers.zombies()
    assert queue.lrange("queue", 0, -1) == [b"message"]
    log = (folder / "var/local/keeper.log").read_text()
    for name in ("Redis", "PostgreSQL"):
        assert log.count(f"{name} ended (SIGKILL); starting it again.") == 2

    children = servers.keeper.children(recursive=True)
    assert len(children) >= 2
    servers.keeper.kill()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive
    stop(user)


def test_an_unreadable_queue_is_set_aside(environment: dict[str, str], folder: Path) -> None:
    queue = folder / "var/local/appendonlydir"
    queue.mkdir(parents=True)
    (queue / "appendonly.aof.manifest").write_text("written by a newer version\n")
    user = hold(environment)
    try:
        [aside] = queue.parent.glob("appendonlydir.unreadable-*")
        assert (aside / "appendonly.aof.manifest").exists()
        assert f"it is now {aside}" in (queue.parent / "keeper.log").read_text()
        assert Servers(folder / "var").redis_answers()
    finally:
        stop(user)


def test_the_pauses_grow_for_a_process_that_cannot_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 1000.0
    monkeypatch.setattr("config.local.supervision.time.monotonic", lambda: clock)
    restarts, pauses = Restarts(), []
    for _ in range(11):
        pauses.append(restarts.ended(started_at=clock - 0.1))
    assert pauses == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not restarts.due()
    clock += 60
    assert restarts.due()
    assert restarts.ended(started_at=clock - 600) == 0, "it had run for ten minutes"
    assert restarts.due()


def test_the_message_names_the_cause_and_the_next_attempt() -> None:
    assert sentence("beat", 137, 0) == "beat ended (SIGKILL); starting it again."
    assert sentence("web", 1, 8) == "web ended (status 1); next attempt in 8 s."
    assert sentence("Redis", -15, 0) == "Redis ended (SIGTERM); starting it again."
