"""A local PostgreSQL and Redis, for installations without DATABASE_URL or REDIS_URL.

Each process that needs them holds a shared lock on `var/local/users.lock` until it exits. One keeper
process (`python -m config.local.keeper`) runs both servers. It exits once it can take that lock
exclusively, which means that nobody uses the servers. The operating system releases the locks of a
process that crashes, so a crash leaves no server running and no file locked.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from config.env import BASE_DIR
from config.local.private import secure
from config.local.urls import services_file

NEEDS_NO_SERVICES = {"help", "version", "--help", "--version", "makemessages", "compilemessages"}
WRITES_FOR_OTHERS = {"collectstatic"}
"""Commands that write files for another account, such as that of a web server."""
START_TIMEOUT_SECONDS = 90
MAX_LOG_BYTES = 1_000_000

_lock_files: list[IO[str]] = []


class LocalServicesError(Exception):
    """Raised if a local server does not start. The message names the server and its log."""


def var_dir() -> Path:
    return Path(os.environ.get("TIEBREAK_VAR", "").strip() or BASE_DIR / "var").absolute()


def provide_for_command(argv: list[str]) -> None:
    if len(argv) < 2 or NEEDS_NO_SERVICES & set(argv[1:2]) or "--help" in argv:
        return
    if argv[1] not in WRITES_FOR_OTHERS:
        secure(var_dir())
    try:
        provide()
    except LocalServicesError as error:
        sys.exit(f"tiebreak: {error}")


def provide() -> None:
    """Start the local servers if necessary, and set DATABASE_URL and REDIS_URL to them if unset.

    This takes milliseconds if the local servers are already running, and about two seconds otherwise.
    Raises LocalServicesError.
    """
    if os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"):
        return
    secure(var_dir())
    folder = var_dir() / "local"
    folder.mkdir(exist_ok=True)
    _hold(folder / "users.lock")
    urls = _urls(folder)
    os.environ.setdefault("TIEBREAK_LOCAL_SERVICES", "1")
    for name, key in (("DATABASE_URL", "database_url"), ("REDIS_URL", "redis_url")):
        if not os.environ.get(name):
            os.environ[name] = urls[key]


def _urls(folder: Path) -> dict[str, str]:
    """Return the URLs of the servers, after starting them if necessary. Raises LocalServicesError."""
    with (folder / "start.lock").open("w") as start_lock:
        fcntl.flock(start_lock, fcntl.LOCK_EX)
        return _running() or _start_keeper(folder)


def revive_keeper() -> bool:
    """Restart the keeper if it was killed; return whether it was.

    The servers keep their URLs. If the keeper is running, this only tries a file lock. Raises
    LocalServicesError.
    """
    if not _lock_files or _running():
        return False
    _urls(var_dir() / "local")
    return True


def keeper_log() -> Path:
    return var_dir() / "local" / "keeper.log"


def _hold(path: Path) -> None:
    """Register this process as a user of the servers until it exits, by locking a file.

    Waits while a keeper is shutting down.
    """
    if any(file.name == str(path) for file in _lock_files):
        return
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_SH)
    _lock_files.append(file)


def _running() -> dict[str, str] | None:
    """Return the URLs of the running keeper's servers, or None if no keeper is running.

    Only a running keeper holds `keeper.lock`, so an old file with URLs is ignored.
    """
    with (var_dir() / "local" / "keeper.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return None
    try:
        return json.loads(services_file(var_dir()).read_text())
    except FileNotFoundError:
        return None


def _start_keeper(folder: Path) -> dict[str, str]:
    services_file(var_dir()).unlink(missing_ok=True)
    log = keeper_log()
    large = log.exists() and log.stat().st_size > MAX_LOG_BYTES
    with log.open("w" if large else "a") as output:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "config.local.keeper", str(var_dir())],
            cwd=BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if services_file(var_dir()).exists():
            return json.loads(services_file(var_dir()).read_text())
        if keeper.poll() is not None:
            break
        time.sleep(0.02)
    keeper.kill()
    [reason] = log.read_text().strip().splitlines()[-1:] or ["it printed nothing"]
    raise LocalServicesError(
        f"the local PostgreSQL and Redis did not start: {reason}. See {log}, or set DATABASE_URL "
        "and REDIS_URL to your own servers."
    )
