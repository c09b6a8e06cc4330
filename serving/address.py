"""The addresses of the model server and of a vLLM server, and the connection to the former."""

import fcntl
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MAX_MESSAGE_BYTES = 64_000_000
MAX_PATH_BYTES = 100
"""The maximum length of the path of a socket, slightly below the limit of the operating system."""
UNIX = "unix:"
LOCK_SUFFIX = ".lock"
"""The suffix of the file next to a socket that the server locks from its start to its end."""
_SIZES = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]
SERVER_OPTIONS = [
    *_SIZES,
    ("grpc.so_reuseport", 0),  # a second server on the same port is an error
    ("grpc.http2.max_ping_strikes", 0),  # clients may ping as often as they do
]
CLIENT_OPTIONS = [
    *_SIZES,
    ("grpc.enable_http_proxy", 0),  # HTTP_PROXY is meant for downloads
    # A server that hangs, or whose machine is gone, is detected in about five seconds.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 4000),
    ("grpc.http2.ping_timeout_ms", 4000),  # of other pings, which delay those above; default 60 s
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 4000),  # also the time limit of a connection attempt
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


class WrongAddress(ValueError):  # noqa: N818
    """An address that cannot be used. The text contains the reason and what to do."""


@dataclass(frozen=True)
class Server:
    """A model server: `unix:PATH` or `HOST:PORT`, the shared token, and the certificate to trust.

    `certificate` is the path of a PEM file with the certificate of the server or of its authority. An
    address of another machine needs it, because the token and the texts would be readable otherwise.
    """

    address: str
    token: str = field(default="", repr=False)
    certificate: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def check(self) -> None:
        """Raise WrongAddress if the address or the token is not valid, or needs a certificate."""
        check_address(self.address)
        if not all("!" <= character <= "~" for character in self.token):
            raise WrongAddress(
                "TIEBREAK_MODEL_SERVER_TOKEN may have only ASCII letters, digits and punctuation."
            )
        if not (is_local(self.address) or self.certificate):
            raise WrongAddress(
                f"{self.address} is on another machine, so it needs TLS. Set "
                "TIEBREAK_MODEL_SERVER_CA to the certificate of the server or of its authority."
            )

    def is_starting(self) -> bool:
        """Return whether a process holds the lock of the socket, so that it will answer soon.

        Servers on a port have no lock, so this is false for them.
        """
        if not self.address.startswith(UNIX):
            return False
        try:
            with Path(self.address.removeprefix(UNIX) + LOCK_SUFFIX).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def channel(self, grpc: Any, **options: Any) -> Any:
        """Return a channel of the module `grpc` or `grpc.aio`. Raises WrongAddress."""
        from grpc import ssl_channel_credentials

        self.check()
        if not self.certificate or self.address.startswith(UNIX):
            return grpc.insecure_channel(self.address, options=CLIENT_OPTIONS, **options)
        try:
            trusted = Path(self.certificate).read_bytes()
        except OSError as error:
            raise WrongAddress(
                f"The certificate {self.certificate} cannot be read: {error.strerror}."
            ) from None
        credentials = ssl_channel_credentials(root_certificates=trusted)
        return grpc.secure_channel(self.address, credentials, options=CLIENT_OPTIONS, **options)


@dataclass(frozen=True)
class VLLMServer:
    """A vLLM server: its address without /v1, such as http://127.0.0.1:8100, and its key.

    Anyone who can use the server can load adapters from its disk, so it must never be public. Without an
    address, no server is used.
    """

    url: str = ""
    key: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can connect to the address."""
        return is_local(f"{urlsplit(self.url).hostname}:0")

    def check(self) -> None:
        """Raise WrongAddress if the address is not valid or public, or if the server has no key."""
        if not self.url:
            return
        name = "TIEBREAK_VLLM_URL"
        try:
            parts = urlsplit(self.url)
            is_whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_whole = False
        if not is_whole or "@" in self.url or parts.path or parts.query or parts.fragment:
            raise WrongAddress(
                f"{name} must be an address without user name and path, such as http://127.0.0.1:8100."
            )
        if is_public(str(parts.hostname)):
            raise WrongAddress(f"{name} is {parts.hostname}, which is a public address.")
        if not self.key:
            raise WrongAddress(
                "TIEBREAK_VLLM_KEY is not set. Without a key, every program that reaches vLLM can load "
                "adapters."
            )


def is_public(host: str) -> bool:
    """Return whether a host is an address of the internet, or the address of all networks.

    Names are not looked up.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_global or address.is_unspecified


def check_address(address: str) -> None:
    """Raise WrongAddress unless the address is `unix:PATH` or `HOST:PORT`."""
    if address.startswith(UNIX):
        path = address.removeprefix(UNIX)
        if not path.startswith("/"):
            raise WrongAddress(f"{address} is not valid: write unix: and an absolute path.")
        if len(path.encode()) > MAX_PATH_BYTES:
            raise WrongAddress(
                f"{path} is too long for a socket; the limit is {MAX_PATH_BYTES} bytes. Set "
                "TIEBREAK_MODEL_SERVER to a shorter path, such as unix:/run/tiebreak/models.sock."
            )
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise WrongAddress(
            f"{address} is not a valid address. Write unix:/PATH, or HOST:PORT with a port up to "
            "65535."
        )


def is_local(address: str) -> bool:
    """Return whether only this machine can connect to the address."""
    if address.startswith(UNIX):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
