"""Bundles in an S3 bucket: what a reader sees while they are written, lost, altered and removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from buckets import addresses, bucket
from buckets.addresses import Address, WrongAddress
from buckets.bucket import Bucket, Damaged, StorageRefused, StorageUnavailable, Superseded
from buckets.manifests import BadManifest, Manifest, parse
from config.env import BASE_DIR

NAME = "runs/12"
PART = 1000


@pytest.fixture
def store(address: Address, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(bucket, "PAUSES", (0.01,))
    return Bucket(address, part_bytes=PART)


@pytest.fixture
def two_files(tmp_path: Path) -> dict[str, Path]:
    for name, size in (("large", 4500), ("empty", 0)):
        (tmp_path / name).write_bytes(os.urandom(size))
    return {"output/large.bin": tmp_path / "large", "empty": tmp_path / "empty"}


def keys(store: Bucket) -> set[str]:
    return set(store._find(""))


def interrupt_after(store: Bucket, count: int, action) -> list[str]:
    """Call `action` before the write with this number. Return the names of what is written."""
    written: list[str] = []
    interrupted: list[str] = []
    write = store._write

    def counted(name: str, data: bytes) -> None:
        if len(written) == count and not interrupted:
            interrupted.append(name)
            action()
        write(name, data)
        written.append(name)

    store._write = counted  # type: ignore[method-assign]
    return written


def test_a_published_file_is_read_back_in_parts(store, two_files, tmp_path):
    manifest = store.publish(NAME, two_files)
    entry = manifest.files["output/large.bin"]
    assert (entry.bytes, len(entry.parts)) == (4500, 5)
    store.download(NAME, entry, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == two_files["output/large.bin"].read_bytes()
    assert store.names("runs") == [NAME]
    assert store.manifest(NAME) == manifest
    assert store.problem_of(NAME) is None


def test_a_reader_sees_nothing_before_the_manifest(store, two_files):
    def fail() -> bool:
        assert len(keys(store)) == 5
        assert store.manifest(NAME) is None
        assert store.names("runs") == []
        return True

    store.publish(NAME, two_files, is_valid=fail)
    assert store.manifest(NAME) is not None


def test_an_upload_continues_after_an_outage_with_what_is_missing(
    store, two_files, s3_server, monkeypatch
):
    monkeypatch.setattr(bucket, "AT_ONCE", 1)
    written = interrupt_after(store, 3, s3_server.go_down)
    with pytest.raises(StorageUnavailable, match="does not answer"):
        store.publish(NAME, two_files)
    s3_server.come_back()
    assert len(keys(store)) == 3
    assert store.manifest(NAME) is None
    before = list(written)
    store.publish(NAME, two_files)
    assert len(written) == 6, "five parts and one manifest, none of them twice"
    assert len(set(written)) == 6
    assert before == written[:3]
    assert store.problem_of(NAME) is None


def test_a_storage_that_is_restarted_without_its_content_gets_it_again(
    store, two_files, s3_server, monkeypatch
):
    monkeypatch.setattr(bucket, "AT_ONCE", 1)

    def restart() -> None:
        s3_server.stop()
        s3_server.start()

    interrupt_after(store, 3, restart)
    store.publish(NAME, two_files)
    assert store.problem_of(NAME) is None
    assert len(store.require(NAME).objects) == 5


def test_the_manifest_with_the_highest_token_counts(store, two_files):
    store.publish(NAME, {"new": two_files["empty"]}, token=5)
    with pytest.raises(Superseded):
        store.publish(NAME, two_files, token=4)
    assert set(store.require(NAME).files) == {"new"}
    store.publish(NAME, two_files, token=6)
    assert store.require(NAME).token == 6
    assert store.problem_of(NAME) is None


def test_a_name_that_leads_out_of_the_folders_is_not_listed(store):
    store._write("runs/../x/manifests/000000000001", b"{}")
    store._write("runs/.hidden/manifests/000000000001", b"{}")
    assert store.names("runs") == []


def test_objects_of_an_earlier_state_are_deleted(store, two_files):
    store.publish(NAME, two_files, token=1)
    store.publish(NAME, {"empty": two_files["empty"]}, token=2)
    assert len(keys(store)) == 1, "an empty file has no objects"
    store.publish(NAME, two_files, token=2)
    assert store.drop(NAME, lambda path: path.startswith("output/")) is not None
    assert set(store.require(NAME).files) == {"empty"}
    store.remove(NAME)
    assert keys(store) == set()


def test_a_file_that_is_known_is_not_read_again(store, two_files):
    first = store.publish(NAME, two_files)
    two_files["output/large.bin"].write_bytes(b"changed")
    again = store.publish(NAME, two_files, known=lambda path, file: first.files[path])
    assert again.files == first.files


def test_an_altered_or_missing_object_is_refused(store, two_files, tmp_path):
    entry = store.publish(NAME, two_files).files["output/large.bin"]
    store._write(f"{NAME}/objects/{entry.parts[1]}", b"other")
    with pytest.raises(Damaged, match="altered"):
        store.download(NAME, entry, tmp_path / "copy")
    store._delete(f"{NAME}/objects/{entry.parts[1]}")
    assert "missing" in str(store.problem_of(NAME))
    assert not list(tmp_path.glob("*copy*"))


@pytest.mark.parametrize(
    "content",
    [
        b"\0",
        b"[]",
        b'{"format": 2, "token": 0, "files": {}}',
        b'{"format": 1, "token": "x", "files": {}}',
        b'{"format": 1, "token": 0, "files": {"../x": {"bytes": 0, "sha256": "%b", "parts": []}}}' % (b"0" * 64),
        b'{"format": 1, "token": 0, "files": {"/x": {"bytes": 0, "sha256": "%b", "parts": []}}}' % (b"0" * 64),
        b'{"format": 1, "token": 0, "files": {"x": {"bytes": -1, "sha256": "%b", "parts": []}}}' % (b"0" * 64),
        b'{"format": 1, "token": 0, "files": {"x": {"bytes": 0, "sha256": "%b", "parts": ["../y"]}}}' % (b"0" * 64),
    ],
)  # fmt: skip
def test_a_manifest_with_hostile_content_is_refused(content):
    with pytest.raises(BadManifest):
        parse(content)


def test_a_manifest_is_read_as_it_was_written():
    manifest = Manifest(3, {})
    assert parse(manifest.to_bytes()) == manifest


def test_a_missing_bucket_is_refused_and_a_write_is_tried(store, s3_server):
    store.try_access()
    assert keys(store) == set()
    absent = addresses.read("s3://absent/x")
    assert isinstance(absent, Address)
    with pytest.raises(StorageRefused, match="s3://absent/x"):
        Bucket(absent).try_access()


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("s3://bucket/a/b/", "bucket/a/b"),
        ("gs://bucket", "bucket"),
        ("abfs://container@account.dfs.core.windows.net/p", "container/p"),
        ("az://container/p", "container/p"),
    ],
)
def test_an_address_names_a_bucket_and_a_prefix(text, root):
    address = addresses.read(text)
    assert isinstance(address, Address)
    assert address.root == root
    assert addresses.read(str(address)) == address


def test_a_file_address_names_a_folder():
    assert addresses.read("file:///srv/tie%20break") == Path("/srv/tie break")
    assert addresses.read("") is None


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:secret@bucket/p", "s3://user@bucket/p", "s3://bucket/p?secret=1", "s3:///p", "s3://bucket/../p",
        "ftp://host/p", "/srv/tiebreak", "file://host/srv", "file:///", "s3://bu\0cket/p", "s3://[/p",
        "abfs://container:secret@account/p",
    ],
)  # fmt: skip
def test_an_address_that_is_wrong_or_contains_a_secret_is_refused_without_repeating_it(text):
    with pytest.raises(WrongAddress) as raised:
        addresses.read(text)
    assert "secret" not in str(raised.value)


def settings_with(storage: str) -> subprocess.CompletedProcess[str]:
    code = "from config import settings; print(settings.RUNS_DIR, settings.STORAGE)"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=BASE_DIR, capture_output=True, text=True,
        env={**os.environ, "TIEBREAK_STORAGE": storage},
    )  # fmt: skip


def test_a_folder_as_storage_contains_the_run_directories(tmp_path):
    assert settings_with(f"file://{tmp_path}").stdout.startswith(f"{tmp_path}/runs ")


def test_a_wrong_storage_stops_the_start_without_showing_its_secret():
    process = settings_with("s3://key:secret@bucket/x")
    assert "TIEBREAK_STORAGE: The address contains credentials" in process.stderr
    assert "secret" not in process.stderr.partition("ImproperlyConfigured")[2]
