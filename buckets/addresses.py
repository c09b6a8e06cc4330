"""The address of the storage root, and the file system that fsspec makes of it.

Credentials come from the environment or from the platform, as each provider's own tools read them. An
address with credentials is refused, because addresses appear in logs and process lists.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PACKAGES = {"s3": "s3fs", "abfs": "adlfs", "gs": "gcsfs"}
"""The supported protocols of object stores, with the package that fsspec needs for each."""

ALIASES = {"az": "abfs", "abfss": "abfs", "gcs": "gs", "s3a": "s3"}
EXAMPLES = "file:///srv/tiebreak, s3://bucket/prefix, abfs://container/prefix or gs://bucket/prefix"
CONNECT_SECONDS, READ_SECONDS = 5, 60


class WrongAddress(ValueError):  # noqa: N818
    """An address that cannot be used. The text says why. It never contains the address's credentials."""


@dataclass(frozen=True)
class Address:
    """The root of an object store: a bucket or container, and a prefix in it, which may be empty."""

    protocol: str
    bucket: str
    prefix: str
    account: str = ""
    """The account of an Azure container, if the address names it."""

    def __str__(self) -> str:
        host = f"{self.bucket}@{self.account}.dfs.core.windows.net" if self.account else self.bucket
        return f"{self.protocol}://{host}/{self.prefix}".rstrip("/")

    @property
    def root(self) -> str:
        """Return the path of the root for the file system."""
        return f"{self.bucket}/{self.prefix}".rstrip("/")

    def file_system(self) -> Any:
        """Return a new file system of fsspec. Raises WrongAddress if its package is not installed."""
        try:
            return self._class()(
                skip_instance_cache=True,  # an instance of the parent process does not survive a fork
                use_listings_cache=False,  # another machine may write
                **self._options(),
            )
        except ImportError:
            raise WrongAddress(
                f"{self} needs the package {PACKAGES[self.protocol]}. Install Tiebreak with the extra "
                "storage: pip install '.[storage]'."
            ) from None

    def _class(self) -> Any:
        if self.protocol == "gs":
            # The class that fsspec knows first asks every bucket for its type, by gRPC and for a minute
            # if that is not possible, as with an emulator or a proxy. Only folders would need the type.
            from gcsfs.core import GCSFileSystem

            return GCSFileSystem
        from fsspec import get_filesystem_class

        return get_filesystem_class(self.protocol)

    def _options(self) -> dict[str, Any]:
        if self.protocol == "s3":
            config = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
            return {"config_kwargs": {**config, "retries": {"max_attempts": 1}}}
        if self.protocol == "abfs":
            options: dict[str, Any] = {"anon": False}
            if self.account:
                options["account_name"] = self.account
            return options
        if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
            return {"token": "anon", "endpoint_url": emulator}
        return {}
        return {}


def read(text: str) -> Address | Path | None:
    """Return the address, the folder of a file:// address, or None for an empty text.

    Raises WrongAddress.
    """
    if not text:
        return None
    try:
        parts = urlsplit(text)
        host, user = parts.hostname or "", parts.username
    except ValueError:
        raise WrongAddress(f"The address is not a valid URL. Use {EXAMPLES}.") from None
    protocol = ALIASES.get(parts.scheme, parts.scheme)
    if protocol == "file":
        return _folder(parts.netloc, parts.path, parts.query or parts.fragment)
    if protocol not in PACKAGES:
        raise WrongAddress(f"The address must begin with a supported protocol: {EXAMPLES}.")
    account, names_account = "", bool(protocol == "abfs" and user and not parts.password)
    if names_account and user:
        account, host = host.partition(".")[0], user
    has_login = not names_account and (user is not None or parts.password is not None)
    if has_login or parts.query or parts.fragment:
        raise WrongAddress(
            f"The address contains credentials or options. Use {EXAMPLES}, and set credentials in the "
            "environment."
        )
    prefix = parts.path.strip("/")
    if not re.fullmatch(r"[a-z0-9][-a-z0-9._]{1,220}", host, re.IGNORECASE):
        raise WrongAddress(f"The address names no valid bucket or container. Use {EXAMPLES}.")
    if not re.fullmatch(r"[-\w./]{0,300}", prefix, re.ASCII) or _is_unsafe(prefix):
        raise WrongAddress(
            "The prefix of the address may have letters, digits and the characters - _ . and /."
        )
    return Address(protocol, host, prefix, account)


def _folder(host: str, path: str, rest: str) -> Path:
    folder = Path(unquote(path))
    if host or rest or not folder.is_absolute() or folder == Path("/") or "\0" in str(folder):
        raise WrongAddress("A file:// address must name a folder, such as file:///srv/tiebreak.")
    return folder


def _is_unsafe(prefix: str) -> bool:
    return bool(prefix) and any(part in ("", ".", "..") for part in prefix.split("/"))
