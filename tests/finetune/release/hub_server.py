"""A model hub for tests: an HTTP server with the parts of the Hugging Face API that we use.

It stores commits in memory and follows the documented protocol: repositories, branches, LFS uploads,
commits, metadata of files, downloads, gated repositories and the validation of model cards.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "other", "unknown", "llama3.2"}


@dataclass
class Repo:
    private: bool
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = repr((branch, len(self.commits), sorted(files.items()))).encode()
        oid = hashlib.sha1(content).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def files(self, branch: str = "main") -> dict[str, bytes]:
        return {k: v for k, v in self.commits[self.branches[branch]].items() if k[0] != "."}


class Hub:
    """The state of the hub. `accounts` maps tokens to the owner in whose name they may write."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.accounts = {"hf_writer": "lamps", "hf_other": "other"}
        self.objects: dict[str, bytes] = {}
        self.damage: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def add(self, name: str, files: dict[str, bytes], **fields: Any) -> Repo:
        repo = self.repos[name] = Repo(**{"private": False, **fields})
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **files})
        return repo


class Refusal(Exception):
    def __init__(self, status: int, text: str, code: str = ""):
        super().__init__(text)
        self.status, self.text, self.code = status, text, code


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin")) or path == "tokenizer.json"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        try:
            status, headers, data = self.route(path, body)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.text}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            status, data = refusal.status, json.dumps({"error": refusal.text}).encode()
        if isinstance(data, dict):
            data = json.dumps(data).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    # --- routes ---------------------------------------------------------------------------------

    def route(self, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if match := re.fullmatch(r"/objects/(\w+)", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                raise Refusal(400, "The hash does not match.")
            self.hub.objects[match[1]] = body
            return 200, {}, {}
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            self.writable(match[1])
            return 200, {}, self.batch(json.loads(body))
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(\w+)/(.+)", path):
            name, action, revision = match.groups()
            if action == "revision":
                return 200, {}, self.info(name, revision)
            self.writable(name)
            return 200, {}, getattr(self, f"on_{action}")(name, revision, body)
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)", path):
            return 200, {}, self.info(match[1], "main")
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self.download(*match.groups())
        raise Refusal(404, "Not found")

    def account(self) -> str | None:
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        token = header.removeprefix("Bearer ")
        if token not in self.hub.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.accounts[token]

    def visible(self, name: str) -> Repo:
        repo, account = self.hub.repos.get(name), self.account()
        if repo is None or (repo.private and account != name.partition("/")[0]):
            raise Refusal(401 if account is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, name: str) -> Repo:
        repo = self.visible(name)
        if self.account() != name.partition("/")[0]:
            raise Refusal(403, "You don't have the rights to write here")
        return repo

    def commit_of(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repo = self.visible(name)
        oid = repo.branches.get(revision, revision)
        if oid not in repo.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repo.commits[oid]

    def info(self, name: str, revision: str) -> dict[str, Any]:
        repo, (oid, files) = self.visible(name), self.commit_of(name, revision)
        siblings = []
        for path, data in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            row: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": blob}
            if is_large(path):
                row["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}  # fmt: skip
            siblings.append(row)
        return {"id": name, "sha": oid, "private": repo.private, "gated": repo.gated and "auto", "siblings": siblings}  # fmt: skip

    def create(self, asked: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        name = f"{asked['organization']}/{asked['name']}"
        if self.account() != asked["organization"]:
            raise Refusal(
                403, f"You don't have the rights to create a model under {asked['organization']}"
            )
        if name in self.hub.repos:
            raise Refusal(409, "You already created this model repo")
        self.hub.add(name, {}, private=asked.get("visibility") == "private")
        return 200, {}, {"url": f"{self.hub.url}/{name}", "id": name}

    def batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for item in asked["objects"]:
            row = dict(item)
            if item["oid"] not in self.hub.objects:
                row["actions"] = {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}"}}
            objects.append(row)
        return {"transfer": "basic", "objects": objects}

    def on_branch(self, name: str, branch: str, body: bytes) -> dict[str, Any]:
        repo = self.hub.repos[name]
        if branch in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        return {}

    def on_preupload(self, name: str, branch: str, body: bytes) -> dict[str, Any]:
        rows = [
            {"path": f["path"], "uploadMode": "lfs" if is_large(f["path"]) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]  # fmt: skip
        return {"files": rows}

    def on_commit(self, name: str, branch: str, body: bytes) -> dict[str, Any]:
        repo = self.hub.repos[name]
        parent, files = self.commit_of(name, branch)
        files = dict(files)
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header" and value.get("parentCommit") not in (None, parent):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        files.update({k: v for k, v in self.hub.damage.items() if k in files})
        oid = repo.commit(branch, files)
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid}

    def download(self, name: str, revision: str, path: str) -> tuple[int, dict[str, str], Any]:
        oid, files = self.commit_of(name, revision)
        if self.hub.repos[name].gated:
            raise Refusal(403, "Access to this model is restricted", "GatedRepo")
        if path not in files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        data = files[path]
        etag = hashlib.sha256(data).hexdigest()
        data = self.hub.damage.get(path, data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": oid, "Content-Length": str(len(data))}
        return 200, headers, data

    def validate(self, content: str) -> tuple[int, dict[str, str], Any]:
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            front = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            return 400, {}, {"errors": [{"message": str(error)}], "warnings": []}
        errors = list(problems_of(front))
        return (
            (400 if errors else 200),
            {},
            {"errors": [{"message": e} for e in errors], "warnings": []},
        )


def problems_of(front: dict[str, Any]) -> Iterator[str]:
    """Yield what the hub would refuse or warn about in the front matter of a model card."""
    if front.get("license") not in LICENSES:
        yield '"license" must be one of the known licences'
    for name in ("base_model", "datasets"):
        values = front.get(name) or []
        for value in [values] if isinstance(values, str) else values:
            if not isinstance(value, str) or not ID.fullmatch(value):
                yield f'"{name}" with value "{value}" is not valid'
    if not all(isinstance(tag, str) for tag in front.get("tags", [])):
        yield '"tags" must be strings'


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve a hub on the loopback interface until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
