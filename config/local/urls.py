"""The URLs of the local PostgreSQL and Redis that belong to a var/ folder."""

import json
from pathlib import Path


def password_file(var_dir: Path) -> Path:
    return var_dir / "local" / "postgres_password"


def services_file(var_dir: Path) -> Path:
    return var_dir / "local" / "services.json"


def _url(var_dir: Path, name: str) -> str:
    try:
        return json.loads(services_file(var_dir).read_text())[name]
    except FileNotFoundError:
        return ""


def local_database_url(var_dir: Path) -> str:
    return (
        _url(var_dir, "database_url")
        or f"postgresql://postgres@/tiebreak?host={var_dir}/sockets/postgres"
    )


def local_redis_url(var_dir: Path) -> str:
    return _url(var_dir, "redis_url") or f"redis+socket://{var_dir}/sockets/redis.sock"


def is_local_database(var_dir: Path, url: str) -> bool:
    """Return whether `url` is the URL of the local PostgreSQL, whether that is running or not."""
    try:
        password = password_file(var_dir).read_text().strip()
    except FileNotFoundError:
        return False
    return f":{password}@" in url
