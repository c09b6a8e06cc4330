"""Runs in MLflow, over its REST API.

https://mlflow.org/docs/latest/api_reference/rest-api.html describes the API. An experiment has the
runs of a project. Parameters are the settings, and metrics are the curves.
"""

import os
import time
from typing import Any

import httpx2

from recipes.tracking.events import Point

API = "/api/2.0/mlflow"
SECONDS = 20.0
MAX_BATCH = 500
MAX_VALUE = 500
STATES = {"succeeded": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflow:
    """The run in MLflow. `state` is stored between attempts, so that they continue the same run."""

    name = "MLflow"

    def __init__(self, state: dict[str, Any], spec: dict[str, Any], title: str, project: str):
        self.state = state
        self.spec = spec
        self.title = title
        self.experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"tiebreak-{project}"
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
        self.http = httpx2.Client(
            base_url=os.environ["MLFLOW_TRACKING_URI"].rstrip("/"),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            auth=httpx2.BasicAuth(user, password) if user and password and not token else None,
            timeout=SECONDS,
        )

    def begin(self) -> None:
        if "run_id" not in self.state:
            tags = {
                "mlflow.runName": self.title,
                "mlflow.source.name": "tiebreak",
                "tiebreak.run": self.spec.get("run_id"),
                "tiebreak.kind": self.spec.get("kind"),
            }
            answer = self._post(
                "runs/create",
                experiment_id=self._experiment_id(),
                run_name=self.title,
                start_time=now(),
                tags=as_pairs(tags),
            )
            self.state["run_id"] = answer["run"]["info"]["run_id"]
            config = self.spec.get("config") or {}
            params = {name: value for name, value in config.items() if value is not None}
            self._post("runs/log-batch", run_id=self.state["run_id"], params=as_pairs(params)[:100])
        else:
            self._post("runs/update", run_id=self.state["run_id"], status="RUNNING")

    def log(self, points: list[Point]) -> None:
        metrics = [
            {"key": name, "value": value, "step": point.step, "timestamp": int(1000 * point.time)}
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), MAX_BATCH):
            batch = metrics[start : start + MAX_BATCH]
            self._post("runs/log-batch", run_id=self.state["run_id"], metrics=batch)

    def end(self, outcome: str) -> None:
        status = STATES.get(outcome, "FAILED")
        self._post("runs/update", run_id=self.state["run_id"], status=status, end_time=now())

    def _experiment_id(self) -> str:
        response = self.http.get(
            f"{API}/experiments/get-by-name", params={"experiment_name": self.experiment}
        )
        if response.status_code == 404:
            return str(self._post("experiments/create", name=self.experiment)["experiment_id"])
        response.raise_for_status()
        return str(response.json()["experiment"]["experiment_id"])

    def _post(self, path: str, **content: Any) -> dict[str, Any]:
        response = self.http.post(f"{API}/{path}", json=content)
        response.raise_for_status()
        return response.json()


def as_pairs(values: dict[str, Any]) -> list[dict[str, str]]:
    return [{"key": name, "value": str(value)[:MAX_VALUE]} for name, value in values.items()]


def now() -> int:
    return int(1000 * time.time())
