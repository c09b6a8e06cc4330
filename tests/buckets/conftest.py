import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from buckets import addresses, bucket, files
from tests.buckets.s3 import BUCKET, S3Server


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Yield one S3 server for the tests of this process."""
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    before = dict(os.environ)
    os.environ.update(server.environment)
    try:
        yield server
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def address(s3_server: S3Server, request: pytest.FixtureRequest) -> addresses.Address:
    """Return the address of an empty prefix."""
    address = addresses.read(f"s3://{BUCKET}/{abs(hash(request.node.nodeid))}")
    assert isinstance(address, addresses.Address)
    return address


class Machines:
    """Machines with folders of their own, which share an object store. One of them is this process."""

    def __init__(self, folder: Path, settings, address: addresses.Address):
        self.folder, self.settings, self.address = folder, settings, address
        settings.STORAGE = address
        self.move_to("first")

    def move_to(self, name: str) -> Path:
        """Let this process be another machine. Return its folder."""
        files._fetched_at.clear()
        machine = self.folder / name
        for kind in ("runs", "snapshots", "uploads"):
            (machine / kind).mkdir(parents=True, exist_ok=True)
            setattr(self.settings, f"{kind.upper()}_DIR", machine / kind)
        return machine

    def lose(self, name: str) -> None:
        shutil.rmtree(self.folder / name)


@pytest.fixture
def machines(
    tmp_path: Path, settings, address: addresses.Address, monkeypatch: pytest.MonkeyPatch
) -> Machines:
    monkeypatch.setattr(bucket, "PAUSES", (0.01,))
    return Machines(tmp_path, settings, address)
