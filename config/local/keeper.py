"""Run the local PostgreSQL and Redis for as long as a process uses them.

Only config.local.services should start this program. If one of the servers ends, it is restarted without
interrupting the other.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

from config.local.postgres import Postgres
from config.local.private import secure, socket_folder
from config.local.redis import Redis
from config.local.servers import Server
from config.local.urls import services_file
from recipes.rundir import write_atomically

POLL_SECONDS = 0.1


def start(postgres: Postgres, redis: Redis) -> None:
    """Start both servers and wait until they answer. Raises SystemExit if one does not."""
    redis.start()
    postgres.start()
    try:
        redis.wait_until_it_answers()
    except SystemExit:
        redis.stop()
        redis.quarantine_unreadable_queue()
        redis.start()
        redis.wait_until_it_answers()
    postgres.wait_until_it_answers()
    postgres.create_database()


def keep_until_unused(users: IO[str], servers: list[Server]) -> None:
    """Restart servers that have ended, until no process holds the users' lock.

    The keeper then holds the lock itself, so new users wait until the keeper has exited.
    """
    while True:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for server in servers:
                server.revive()
            time.sleep(POLL_SECONDS)
        else:
            return


def stop(*_: object) -> None:
    raise SystemExit(0)


def main(var: Path) -> None:
    folder = var / "local"
    keeper_lock = (folder / "keeper.lock").open("w")
    fcntl.flock(keeper_lock, fcntl.LOCK_EX)
    users = (folder / "users.lock").open("w")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sockets = socket_folder(var)
    postgres, redis = Postgres(var, sockets), Redis(var, sockets)
    secure(var)  # again, because Postgres() may have created its account, which needs access
    socket_folder(var)
    try:
        start(postgres, redis)
        urls = {"database_url": postgres.url(), "redis_url": redis.url(), "pid": os.getpid()}
        write_atomically(services_file(var), json.dumps(urls))
        keep_until_unused(users, [postgres, redis])
    finally:
        services_file(var).unlink(missing_ok=True)
        for server in (redis, postgres):
            server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
