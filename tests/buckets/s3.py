"""An S3 server for tests, in a process of its own, with the bucket `tiebreak`.

python -m tests.buckets.s3 PORT
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from config.env import BASE_DIR

BUCKET = "tiebreak"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
START_SECONDS = 60


class S3Server:
    """A moto server, which keeps its content in memory."""

    def __init__(self, log: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        self.start()

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables with which every client finds this server."""
        return {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def start(self) -> None:
        """Start the process, without content."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.buckets.s3", str(self.port)],
                cwd=BASE_DIR, stdout=output, stderr=output,
            )  # fmt: skip
        self._wait(answers=True)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def go_down(self) -> None:
        """Refuse connections until `come_back`. The content is kept."""
        self.process.send_signal(signal.SIGUSR1)
        self._wait(answers=False)

    def come_back(self) -> None:
        self.process.send_signal(signal.SIGUSR2)
        self._wait(answers=True)

    def _wait(self, *, answers: bool) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as client:
                if (client.connect_ex(("127.0.0.1", self.port)) == 0) is answers:
                    return
            time.sleep(0.02)
        raise TimeoutError(self.log.read_text())


def serve(port: int) -> None:
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    os.environ.update(KEYS)
    s3_backends["123456789012"]["aws"].create_bucket(BUCKET, "us-east-1")
    application = DomainDispatcherApplication(create_backend_app)
    signals = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    while True:
        server = make_server("127.0.0.1", port, application, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        while signal.sigwait(signals) != signal.SIGUSR1:
            pass
        server.shutdown()
        server.server_close()
        while signal.sigwait(signals) != signal.SIGUSR2:
            pass


if __name__ == "__main__":
    serve(int(sys.argv[1]))
