"""Permissions that close the data folder to other accounts.

PostgreSQL refuses to run as root. If Tiebreak runs as root, PostgreSQL therefore runs under an account
of its own, which may search the data folder but cannot read other files in it.
"""

import hashlib
import os
import pwd
import stat
import subprocess
import tempfile
from pathlib import Path

POSTGRES_ACCOUNT = "pgserver"
OTHERS = stat.S_IRWXG | stat.S_IRWXO
UMASK = 0o077
DONE = ".private"
MAX_SOCKET_PATH_BYTES = 100
"""Maximum length of a socket's path in bytes. The operating system allows 107."""
LONGEST_SOCKET = "postgres/.s.PGSQL.5432"


def postgres_account(*, create: bool = False) -> pwd.struct_passwd | None:
    """Return the account for PostgreSQL, or None if PostgreSQL runs under the current account."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(POSTGRES_ACCOUNT)
    except KeyError:
        if not create:
            return None
    command = ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", POSTGRES_ACCOUNT]
    subprocess.run(command, check=True, capture_output=True)
    return pwd.getpwnam(POSTGRES_ACCOUNT)


def secure(var: Path) -> None:
    """Close `var` and its existing files to other accounts, and set the umask for new files."""
    os.umask(UMASK)
    var.mkdir(parents=True, exist_ok=True)
    if var.stat().st_uid != os.geteuid():
        return
    let_postgres_search(var)
    if not (var / DONE).exists():
        for folder, _, files in os.walk(var):
            for name in [".", *files]:
                _close(Path(folder, name))
        let_postgres_search(var)
        (var / DONE).touch()


def let_postgres_search(folder: Path) -> None:
    """Set the folder's mode to 0700, or to 0710 with the group of PostgreSQL's account."""
    account = postgres_account()
    if account:
        os.chown(folder, -1, account.pw_gid)
    folder.chmod(0o710 if account else 0o700)


def _close(path: Path) -> None:
    status = path.lstat()
    regular = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    if regular and status.st_uid == os.geteuid() and status.st_mode & OTHERS:
        path.chmod(stat.S_IMODE(status.st_mode) & ~OTHERS)


def socket_folder(var: Path) -> Path:
    """Return a private folder for sockets, which is in `var` unless its path would be too long."""
    folder = var / "sockets"
    if len(str(folder / LONGEST_SOCKET).encode()) > MAX_SOCKET_PATH_BYTES:
        digest = hashlib.sha256(str(var).encode()).hexdigest()[:12]
        folder = Path(tempfile.gettempdir(), f"tiebreak-{os.geteuid()}-{digest}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        # Another account has already created this folder in the shared temporary folder.
        folder = Path(tempfile.mkdtemp(prefix="tiebreak-"))
    let_postgres_search(folder)
    return folder


def make_parents_searchable(folder: Path, account: pwd.struct_passwd) -> None:
    """Allow `account` to search the parents of `folder`, but not to list them."""
    for parent in folder.parents:
        status = parent.stat()
        group = status.st_gid == account.pw_gid and status.st_mode & stat.S_IXGRP
        if not group and not status.st_mode & stat.S_IXOTH and status.st_uid != account.pw_uid:
            parent.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)
