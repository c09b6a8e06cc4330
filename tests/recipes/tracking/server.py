"""A small MLflow tracking server with the calls that runs make, for tests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class TrackingServer(ThreadingHTTPServer):
    """A server that stores experiments, runs and metrics in memory. It first refuses `refusals` calls."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusals = 0
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.refusals:
            self.refusals -= 1
            return 503, {"error_code": "TEMPORARILY_UNAVAILABLE"}
        if path == "experiments/get-by-name":
            name = content["experiment_name"][0]
            if name not in self.experiments:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}
            return 200, {"experiment": {"experiment_id": self.experiments[name]}}
        if path == "experiments/create":
            self.experiments[content["name"]] = str(len(self.experiments) + 1)
            return 200, {"experiment_id": self.experiments[content["name"]]}
        if path == "runs/create":
            name = f"run-{len(self.runs)}"
            self.runs[name] = {**content, "status": "RUNNING", "metrics": [], "params": []}
            return 200, {"run": {"info": {"run_id": name}}}
        run = self.runs[content["run_id"]]
        if path == "runs/log-batch":
            run["metrics"] += content.get("metrics", [])
            run["params"] += content.get("params", [])
            return 200, {}
        assert path == "runs/update"
        run["status"] = content["status"]
        return 200, {"run_info": {}}


class Handler(BaseHTTPRequestHandler):
    server: TrackingServer

    def do_GET(self) -> None:
        self.reply(parse_qs(urlsplit(self.path).query))

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, content: dict[str, Any]) -> None:
        path = urlsplit(self.path).path.removeprefix("/api/2.0/mlflow/")
        status, answer = self.server.answer(path, content)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def tracking_server() -> Iterator[TrackingServer]:
    server = TrackingServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
