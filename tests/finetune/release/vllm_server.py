"""A vLLM server for tests, with the parts of its API that Tiebreak uses.

Statuses and answers are those of vLLM 0.32.0, recorded with a real server: the list of models with `root`
and `parent`, loading with and without `load_inplace`, unloading, refusals, and streams with usage.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BASE = "lamps-base"


class VLLM:
    """The state of the server. `adapters` maps names to folders."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.key = "secret-1"
        self.words = ["Good ", "morning"]
        self.breaks_off = False
        self.url = ""

    def models(self) -> dict[str, Any]:
        rows = [{"id": BASE, "object": "model", "root": self.base, "parent": None}]
        rows += [
            {"id": name, "object": "model", "root": folder, "parent": BASE}
            for name, folder in self.adapters.items()
        ]
        return {"object": "list", "data": rows}

    def load(self, lora_name: str, lora_path: str, load_inplace: bool = False) -> tuple[int, Any]:
        if lora_name in self.adapters and not load_inplace:
            text = (
                f"The lora adapter '{lora_name}' has already been loaded. If you want to load the adapter "
                "in place, set 'load_inplace' to True."
            )
            return 400, error(text, "InvalidUserInput", 400)
        if not Path(lora_path).is_dir():
            text = f"Loading lora {lora_name} failed: No adapter found for <path>"
            return 404, error(text, "NotFoundError", 404)
        self.adapters[lora_name] = lora_path
        return 200, f"Success: LoRA adapter '{lora_name}' added successfully."

    def unload(self, lora_name: str) -> tuple[int, Any]:
        if lora_name not in self.adapters:
            text = f"The lora adapter '{lora_name}' cannot be found."
            return 404, error(text, "NotFoundError", 404)
        del self.adapters[lora_name]
        return 200, f"Success: LoRA adapter '{lora_name}' removed successfully."


def error(text: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


class Handler(BaseHTTPRequestHandler):
    server: "Listener"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, content: dict[str, Any]) -> None:
        vllm = self.server.vllm
        vllm.calls.append((self.path, content))
        if self.headers["Authorization"] != f"Bearer {vllm.key}":
            return self.send(401, {"error": "Unauthorized"})
        if self.path == "/v1/models":
            return self.send(200, vllm.models())
        if self.path == "/v1/load_lora_adapter":
            return self.send(*vllm.load(**content))
        if self.path == "/v1/unload_lora_adapter":
            return self.send(*vllm.unload(**content))
        return self.chat(content)

    def chat(self, content: dict[str, Any]) -> None:
        vllm = self.server.vllm
        if content["model"] not in {BASE, *vllm.adapters}:
            text = f"The model `{content['model']}` does not exist. Valid aliases: {BASE}."
            self.send(404, error(text, "NotFoundError", 404))
            return
        if len(str(content["messages"])) > 2000:
            text = "This model's maximum context length is 512 tokens. Please reduce the length."
            self.send(400, error(text, "BadRequestError", 400))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        limit = content.get("max_tokens", len(vllm.words))
        words = vllm.words[:limit]
        self.chunk({"role": "assistant", "content": ""}, 0)
        for number, word in enumerate(words, 1):
            self.chunk({"content": word}, number)
        if vllm.breaks_off:
            return
        reason = "length" if limit < len(vllm.words) else "stop"
        self.chunk({"content": ""}, len(words), finish_reason=reason)
        self.line({"choices": [], "usage": usage(len(words))})
        self.wfile.write(b"data: [DONE]\n\n")

    def chunk(self, delta: dict[str, str], tokens: int, finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        self.line({"choices": [choice], "usage": usage(tokens)})

    def line(self, content: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())

    def send(self, status: int, content: Any) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens}


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    vllm: VLLM


@contextmanager
def vllm_server(base: str) -> Iterator[VLLM]:
    """Serve a base model on a free port of the loopback address."""
    vllm = VLLM(base)
    with Listener(("127.0.0.1", 0), Handler) as listener:
        listener.vllm = vllm
        vllm.url = f"http://127.0.0.1:{listener.server_port}"
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        try:
            yield vllm
        finally:
            listener.shutdown()
