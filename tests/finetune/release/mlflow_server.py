"""An MLflow server for tests, with the parts of the REST API that Tiebreak uses.

Statuses, error codes and answers are those of MLflow 3.17.2, recorded with a real server: names without
`/` and `:`, sources that are neither http addresses nor local folders, a second registration of a name
(400, RESOURCE_ALREADY_EXISTS), search by name and tag, and aliases of existing versions only.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/api/2.0/mlflow/"
FILTER = re.compile(r"name='([^']*)' and tags\.`([^`]*)`='([^']*)'")


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class MLflow:
    """The state of the registry. If `authorization` is set, other requests get status 401."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.authorization = ""
        self.failures: list[int] = []
        """Statuses with which the next requests fail."""
        self.uri = ""

    def create_model(self, name: str, **fields: Any) -> dict[str, Any]:
        if not name or set(name) & set("/:"):
            raise Refusal(400, "INVALID_PARAMETER_VALUE", f"Invalid model name '{name}'.")
        if name in self.models:
            text = f"Registered Model (name={name}) already exists."
            raise Refusal(400, "RESOURCE_ALREADY_EXISTS", text)
        self.models[name] = {**fields, "versions": [], "aliases": {}}
        return {"registered_model": {"name": name, **fields}}

    def create_version(self, name: str, source: str, **fields: Any) -> dict[str, Any]:
        if urlsplit(source).scheme in ("", "file", "http", "https"):
            raise Refusal(
                400, "INVALID_PARAMETER_VALUE", f"Invalid model version source: '{source}'."
            )
        versions = self.model(name)["versions"]
        version = {"name": name, "version": str(len(versions) + 1), "source": source, **fields}
        versions.append({**version, "status": "READY"})
        return {"model_version": versions[-1]}

    def search(self, filter: str, **others: Any) -> dict[str, Any]:
        name, key, value = FILTER.fullmatch(filter).groups()  # type: ignore[union-attr]
        versions = self.models.get(name, {"versions": []})["versions"]
        rows = [row for row in versions if {"key": key, "value": value} in row["tags"]]
        return {"model_versions": rows[::-1]} if rows else {}

    def set_alias(self, name: str, alias: str, version: str) -> dict[str, Any]:
        if version not in [row["version"] for row in self.model(name)["versions"]]:
            text = f"Model Version (name={name}, version={version}) not found"
            raise Refusal(404, "RESOURCE_DOES_NOT_EXIST", text)
        self.models[name]["aliases"][alias] = version
        return {}

    def model(self, name: str) -> dict[str, Any]:
        if name not in self.models:
            text = f"Registered Model with name={name} not found"
            raise Refusal(404, "RESOURCE_DOES_NOT_EXIST", text)
        return self.models[name]


class Handler(BaseHTTPRequestHandler):
    server: "Listener"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        registry = self.server.registry
        self.answer(
            {
                "registered-models/create": registry.create_model,
                "model-versions/create": registry.create_version,
                "registered-models/alias": registry.set_alias,
            },
            content,
        )

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.answer({"model-versions/search": self.server.registry.search}, query)

    def answer(self, methods: dict[str, Any], content: dict[str, Any]) -> None:
        registry, path = self.server.registry, urlsplit(self.path).path.removeprefix(API)
        registry.requests.append(path)
        try:
            if registry.failures:
                raise Refusal(registry.failures.pop(0), "INTERNAL_ERROR", "The store is down.")
            if registry.authorization not in ("", self.headers["Authorization"]):
                raise Refusal(401, "", "You are not authenticated.")
            self.send(200, methods[path](**content))
        except Refusal as refusal:
            self.send(refusal.status, {"error_code": refusal.code, "message": str(refusal)})

    def send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    registry: MLflow


@contextmanager
def mlflow_server() -> Iterator[MLflow]:
    """Serve a registry on a free port of the loopback address."""
    registry = MLflow()
    with Listener(("127.0.0.1", 0), Handler) as listener:
        listener.registry = registry
        registry.uri = f"http://127.0.0.1:{listener.server_port}"
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        try:
            yield registry
        finally:
            listener.shutdown()
