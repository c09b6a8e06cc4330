"""Machines in network namespaces, which share the files of this machine but have their own network.

    with Machine("a", number=1) as machine:
        machine.start([...], env={...})    # with its own host name
        machine.host                       # the address of this machine, as seen from there
        machine.cut()                      # packets are lost from now on, without an error
        machine.connect()

They need root and the `ip` command. `Forwarder` makes a server of this machine reachable from there.
"""

import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from typing import Any


def reason_without() -> str:
    """Return why network namespaces cannot be used here, or ""."""
    if not (shutil.which("ip") and shutil.which("unshare")):
        return "It needs the commands ip and unshare."
    if os.geteuid():
        return "It needs root for network namespaces."
    name = f"tb{os.getpid()}probe"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if done.returncode == 0:
        ip("netns", "del", name)
    return "" if done.returncode == 0 else "This machine does not allow network namespaces."


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Machine:
    def __init__(self, name: str, *, number: int):
        self.name = f"tb{os.getpid()}{name}"
        self.link = f"tb{os.getpid() % 100_000}{name}"
        network = f"10.213.{os.getpid() % 250}"
        self.host, self.address = f"{network}.{4 * number + 1}", f"{network}.{4 * number + 2}"

    def __enter__(self) -> "Machine":
        ip("netns", "add", self.name)
        try:
            ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            ip("addr", "add", f"{self.host}/30", "dev", self.link)
            ip("link", "set", self.link, "up")
            ip("-n", self.name, "addr", "add", f"{self.address}/30", "dev", "eth0")
            ip("-n", self.name, "link", "set", "eth0", "up")
            ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", self.link)
        ip("netns", "del", self.name)

    def command(self, command: list[str]) -> list[str]:
        """Return a command that runs `command` on this machine, with the machine's host name."""
        script = f'hostname {self.name} && exec ip netns exec {self.name} "$@"'
        return ["unshare", "--uts", "sh", "-c", script, "sh", *command]

    def cut(self) -> None:
        ip("link", "set", self.link, "down")

    def connect(self) -> None:
        ip("link", "set", self.link, "up")


class Forwarder:
    """Forwards connections to `address` at a free port to a server, given by its host or socket folder."""

    def __init__(self, address: str, target: Any):
        self._target = target
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            family = socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
            server = socket.socket(family)
            try:
                server.connect(self._target)
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
