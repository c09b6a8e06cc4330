"""A real Ray cluster on this machine: a head node without CPUs, and a worker node with one.

    with RayCluster(folder, variables) as cluster:
        cluster.url               # the address for TIEBREAK_RAY_ADDRESS
        cluster.worker.kill()     # kill -9 of the node and of all its processes
        cluster.worker.start()

A node takes 5 to 15 seconds to start. `folder` needs a short path, because Ray's sockets are in it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from config.local.processes import free_port

TOKEN = "a-token-of-the-tests-that-ray-requires-of-every-request"
STORE_BYTES = 80 << 20
START_SECONDS = 90


class RayNode:
    def __init__(self, folder: Path, name: str, arguments: list[str], variables: Mapping[str, str]):
        self.mark = f"tiebreak-test-{folder.name}-{name}"
        self.log = folder / f"{name}.log"
        self._command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block",
            "--node-ip-address", "127.0.0.1", "--object-store-memory", str(STORE_BYTES),
            "--disable-usage-stats", "--dashboard-agent-listen-port", "0", *arguments,
        ]  # fmt: skip
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        self._variables = {**variables, **auth, "TB_NODE": self.mark}

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env={**os.environ, **self._variables}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def processes(self) -> set[psutil.Process]:
        """Return all processes of the node, also the jobs, which may have lost their parent.

        Some processes of Ray overwrite their environment, so the variable alone does not find them.
        """
        processes = set()
        with suppress(psutil.Error):
            ray = psutil.Process(self.process.pid)
            processes = (
                {ray, *ray.children(recursive=True)} if self.process.poll() is None else set()
            )
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TB_NODE") == self.mark:
                    processes.add(process)
        return processes

    def kill(self) -> None:
        """Kill the node and everything that runs on it, as a power failure would."""
        while remaining := self.processes():
            for process in remaining:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(remaining, timeout=5)
        self.process.wait(5)


class RayCluster:
    def __init__(self, folder: Path, variables: Mapping[str, str], *, worker_gpus: int = 0):
        self.folder = folder
        port, dashboard, client = (free_port(start) for start in (21000, 22000, 23000))
        self.url = f"http://127.0.0.1:{dashboard}"
        self.head = RayNode(
            folder, "head",
            [
                "--head", "--port", str(port), "--dashboard-port", str(dashboard),
                "--dashboard-host", "127.0.0.1", "--ray-client-server-port", str(client),
                "--temp-dir", str(folder / "ray"), "--num-cpus", "0",
            ],
            variables,
        )  # fmt: skip
        self.worker = RayNode(
            folder, "worker",
            ["--address", f"127.0.0.1:{port}", "--num-cpus", "1", "--num-gpus", str(worker_gpus)],
            variables,
        )  # fmt: skip

    def start(self) -> None:
        self.head.start()
        self._wait("the head node", self._has_head)
        self.worker.start()
        self._wait("the worker node", lambda: self._nodes() >= 2)

    def get(self, path: str) -> str:
        """Return the answer of the dashboard. Raises OSError."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()

    def _has_head(self) -> bool:
        """Return whether the head node answers. If its port was still in use, start it again."""
        if self.head.process.poll() is not None:
            self.head.start()
        return self._nodes() >= 1

    def _nodes(self) -> int:
        with suppress(OSError):
            return self.get("/nodes?view=summary").count('"state": "ALIVE"')
        return 0

    def _wait(self, what: str, fact: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not fact():
            logs = "".join(
                node.log.read_text()[-2000:]
                for node in (self.head, self.worker)
                if node.log.exists()
            )
            assert time.monotonic() < deadline, f"{what} did not start: {logs}"
            time.sleep(0.1)

    def __enter__(self) -> "RayCluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for node in (self.worker, self.head):
            if hasattr(node, "process"):
                node.kill()
        shutil.rmtree(self.folder / "ray", ignore_errors=True)
