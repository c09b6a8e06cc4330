"""A client of the Ray Jobs REST API.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html describes the API.
The machine that submits jobs does not need Ray itself.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

SECONDS = 10.0
MAX_BYTES = 16 << 20
"""Maximum size of an answer. A cluster with 10,000 jobs answers with about 6 MB."""
MAX_MESSAGE = 500
REQUEST_ID = "tiebreak_run"
"""The key in a job's metadata for the request id of its run, which no other installation has."""

PENDING, RUNNING = "PENDING", "RUNNING"


class RayError(Exception):
    """Raised if the cluster does not answer, or refuses a request. The message is a sentence."""


@dataclass(frozen=True)
class Job:
    """A job of the cluster, as Ray last reported it. Ray's report may be wrong when a node dies.

    `ended_ms` is in milliseconds since 1970 by the clock of the cluster, or 0.
    """

    id: str
    status: str
    request_id: str
    message: str
    ended_ms: int
    exit_status: int | None
    """The exit status of the job's command, or None if Ray has lost the job or its node."""

    @property
    def is_alive(self) -> bool:
        return self.status in (PENDING, RUNNING)


@dataclass(frozen=True)
class Resources:
    """The free resources that a node needs to start a job."""

    cpus: int
    gpus: int
    custom: dict[str, float]


class RayJobs:
    def __init__(self, http: httpx2.Client, address: str):
        self._http = http
        self._address = address

    def all(self) -> dict[str, Job]:
        """Return the submitted jobs of the cluster by their ids, those of other programs too."""
        rows = self._call("GET", "/api/jobs/")
        if not isinstance(rows, list):
            raise RayError(f"{self._address} did not answer as a Ray cluster does.")
        jobs = [_job(row) for row in rows if isinstance(row, dict) and row.get("submission_id")]
        return {job.id: job for job in jobs}

    def submit(self, job_id: str, command: str, resources: Resources, *, request_id: str) -> None:
        """Submit a job. Raises RayError, also if there is a job with this id."""
        body: dict[str, Any] = {
            "submission_id": job_id,
            "entrypoint": command,
            "entrypoint_num_cpus": resources.cpus,
            "metadata": {REQUEST_ID: request_id},
        }
        if resources.gpus:
            body["entrypoint_num_gpus"] = resources.gpus
        if resources.custom:
            body["entrypoint_resources"] = resources.custom
        self._call("POST", "/api/jobs/", body)

    def stop(self, job_id: str) -> None:
        """Ask a job to end. Ray sends SIGTERM, and SIGKILL three seconds later."""
        self._call("POST", f"/api/jobs/{quote(job_id, safe='')}/stop", {})

    def delete(self, job_id: str) -> None:
        """Delete the record of a job that has ended."""
        self._call("DELETE", f"/api/jobs/{quote(job_id, safe='')}")

    def version(self) -> str:
        """Return the version of Ray in the cluster."""
        answer = self._call("GET", "/api/version")
        return str(answer.get("ray_version", "")) if isinstance(answer, dict) else ""

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            with self._http.stream(method, path, json=body) as response:
                text = self._read(response)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            detail = str(error) or type(error).__name__
            raise RayError(
                f"The Ray cluster at {self._address} did not answer ({detail})."
            ) from None
        if response.is_success:
            try:
                return json.loads(text)
            except ValueError:
                raise RayError(f"{self._address} did not answer as a Ray cluster does.") from None
        if response.status_code in (401, 403):
            raise RayError(f"The Ray cluster at {self._address} refused TIEBREAK_RAY_TOKEN.")
        raise RayError(
            f"The Ray cluster at {self._address} answered {method} {path} with status "
            f"{response.status_code}: {_last_line(text)}"
        )

    def _read(self, response: httpx2.Response) -> bytes:
        text = bytearray()
        for chunk in response.iter_bytes():
            text += chunk
            if len(text) > MAX_BYTES:
                raise RayError(f"The answer of {self._address} is larger than 16 MB.")
        return bytes(text)


@contextmanager
def connect(address: str, token: str) -> Iterator[RayJobs]:
    """Yield a client for the cluster at `address`, such as http://10.0.0.5:8265."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx2.Client(base_url=address, headers=headers, timeout=SECONDS) as http:
        yield RayJobs(http, address)


def _job(row: dict[str, Any]) -> Job:
    metadata = row.get("metadata")
    ended, status = row.get("end_time"), row.get("driver_exit_code")
    return Job(
        id=str(row["submission_id"]),
        status=str(row.get("status")),
        request_id=str(metadata.get(REQUEST_ID, "")) if isinstance(metadata, dict) else "",
        message=_last_line(str(row.get("message") or "").encode()),
        ended_ms=ended if isinstance(ended, int) else 0,
        exit_status=status if isinstance(status, int) else None,
    )


def _last_line(text: bytes) -> str:
    """Return the last line that is not empty, without NUL bytes, which PostgreSQL refuses."""
    lines = text.decode("utf-8", "replace").replace("\0", "").strip().splitlines()
    return lines[-1].strip()[:MAX_MESSAGE] if lines else ""
