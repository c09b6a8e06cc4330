"""The client: a method for each operation of the API."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast
from urllib.parse import quote

from tiebreak_client import types
from tiebreak_client.transport import Transport

ENDED = ("succeeded", "failed", "cancelled")
ITEMS_AT_ONCE = 200
"""Number of tasks in a request. The server accepts 1,000, and 2.5 MB."""

Messages = Sequence[Mapping[str, str]]
Action = Literal["promote", "archive", "restore"]


class Client(Transport):
    """A client of a Tiebreak server.

    All methods raise ApiError if the server refuses a request, and NotReachable if it does not answer.
    """

    # --- projects ---------------------------------------------------------------------------------

    def projects(self) -> Iterator[types.Project]:
        """Yield the projects of the owner of the token."""
        return self.pages("/projects")

    def project(self, slug: str) -> types.ProjectDetail:
        return cast(types.ProjectDetail, self.request("GET", _project(slug)))

    def create_project(
        self,
        name: str,
        *,
        slug: str = "",
        description: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> types.ProjectDetail:
        """Create a project. Without a slug, the server derives one from the name."""
        body = {
            "name": name,
            "slug": slug,
            "description": description,
            "settings": dict(settings or {}),
        }
        return cast(types.ProjectDetail, self.request("POST", "/projects", body=body))

    def change_project(self, slug: str, **changes: Any) -> types.ProjectDetail:
        """Change the `name`, the `description` or `settings` of a project."""
        return cast(types.ProjectDetail, self.request("PATCH", _project(slug), body=changes))

    def archive_project(self, slug: str) -> types.ProjectDetail:
        return cast(types.ProjectDetail, self.request("POST", _project(slug, "archive"), body={}))

    def restore_project(self, slug: str) -> types.ProjectDetail:
        return cast(types.ProjectDetail, self.request("POST", _project(slug, "restore"), body={}))

    def members(self, slug: str) -> Iterator[types.Member]:
        return self.pages(_project(slug, "members"))

    def set_member(self, slug: str, username: str, role: types.Role) -> types.Member:
        """Add a person to a project, or change their role."""
        path = _project(slug, "members", username)
        return cast(types.Member, self.request("PUT", path, body={"role": role}))

    def remove_member(self, slug: str, username: str) -> None:
        self.request("DELETE", _project(slug, "members", username))

    def guideline_versions(self, slug: str) -> Iterator[types.GuidelineVersion]:
        return self.pages(_project(slug, "guideline", "versions"))

    def guideline_version(self, slug: str, number: int) -> types.GuidelineVersionDetail:
        path = _project(slug, "guideline", "versions", number)
        return cast(types.GuidelineVersionDetail, self.request("GET", path))

    def draft_guideline(
        self,
        slug: str,
        text: str,
        *,
        criteria: Sequence[Mapping[str, Any]] = (),
        change_note: str = "",
        requalify: bool = False,
    ) -> types.GuidelineVersionDetail:
        """Create a draft of the next version of the guideline."""
        body = {
            "text": text,
            "criteria": [dict(criterion) for criterion in criteria],
            "change_note": change_note,
            "requalify": requalify,
        }
        path = _project(slug, "guideline", "versions")
        return cast(types.GuidelineVersionDetail, self.request("POST", path, body=body))

    def publish_guideline(self, slug: str, number: int) -> types.GuidelineVersionDetail:
        path = _project(slug, "guideline", "versions", number, "publish")
        return cast(types.GuidelineVersionDetail, self.request("POST", path, body={}))

    def delete_draft(self, slug: str, number: int) -> None:
        self.request("DELETE", _project(slug, "guideline", "versions", number))

    # --- tasks and rankings -----------------------------------------------------------------------

    def add_tasks(self, slug: str, items: Iterable[Mapping[str, Any]]) -> list[types.Added]:
        """Add prompts with their responses, and return the answer to each request.

        Items have the form of Tiebreak JSONL. Adding the same items again adds no duplicates, so a
        call that failed can be repeated.
        """
        answers: list[types.Added] = []
        batch: list[Mapping[str, Any]] = []
        for item in items:
            batch.append(item)
            if len(batch) == ITEMS_AT_ONCE:
                answers.append(self._add(slug, batch))
                batch = []
        if batch:
            answers.append(self._add(slug, batch))
        return answers

    def _add(self, slug: str, items: Sequence[Mapping[str, Any]]) -> types.Added:
        body = {"items": list(items)}
        return cast(types.Added, self.request("POST", _project(slug, "tasks"), body=body))

    def tasks(self, slug: str, *, external_id: str | None = None) -> Iterator[types.Task]:
        return self.pages(_project(slug, "tasks"), {"external_id": external_id})

    def task(self, slug: str, number: int) -> types.Task:
        return cast(types.Task, self.request("GET", _project(slug, "tasks", number)))

    def withdraw_task(self, slug: str, number: int, *, reason: str = "") -> types.Task:
        path = _project(slug, "tasks", number, "withdraw")
        return cast(types.Task, self.request("POST", path, body={"reason": reason}))

    def restore_task(self, slug: str, number: int) -> types.Task:
        path = _project(slug, "tasks", number, "restore")
        return cast(types.Task, self.request("POST", path, body={}))

    def rankings(
        self,
        slug: str,
        *,
        since: datetime | None = None,
        after: int | None = None,
        superseded: bool = False,
        limit: int = 500,
    ) -> Iterator[types.Ranking]:
        """Yield the rankings of a project in the order of their ids.

        To continue later, pass the id of the last ranking as `after`. `since` needs a time zone.
        """
        params = {
            "since": since.isoformat() if since else None,
            "after": after,
            "superseded": "true" if superseded else None,
            "limit": limit,
        }
        return self.pages(_project(slug, "rankings"), params)

    def ranking(self, slug: str, number: int) -> types.Ranking:
        return cast(types.Ranking, self.request("GET", _project(slug, "rankings", number)))

    # --- runs -------------------------------------------------------------------------------------

    def run_kinds(self) -> list[types.RunKind]:
        """Return the kinds of runs with their inputs and settings."""
        return cast(list[types.RunKind], self.request("GET", "/run-kinds"))

    def set_priority(self, number: int, priority: Literal[-1, 0, 1]) -> types.RunDetail:
        """Change the priority of a queued run. Workers claim higher priorities first."""
        body = {"priority": priority}
        return cast(types.RunDetail, self.request("PUT", f"/runs/{number}/priority", body=body))

    def runs(
        self,
        *,
        project: str | None = None,
        kind: str | None = None,
        state: types.RunState | None = None,
    ) -> Iterator[types.Run]:
        """Yield the runs, newest first."""
        return self.pages("/runs", {"project": project, "kind": kind, "state": state})

    def run(self, number: int) -> types.RunDetail:
        return cast(types.RunDetail, self.request("GET", f"/runs/{number}"))

    def start_run(
        self,
        kind: str,
        *,
        inputs: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        preset: str = "",
        title: str = "",
        again: bool = False,
        idempotency_key: str | None = None,
    ) -> types.RunDetail:
        """Queue a run. `config` has the settings that differ from the preset."""
        body = {
            "kind": kind,
            "inputs": dict(inputs),
            "config": dict(config or {}),
            "preset": preset,
            "title": title,
            "again": again,
        }
        answer = self.request("POST", "/runs", body=body, idempotency_key=idempotency_key)
        return cast(types.RunDetail, answer)

    def cancel_run(self, number: int) -> types.RunDetail:
        return cast(types.RunDetail, self.request("POST", f"/runs/{number}/cancel", body={}))

    def continue_run(self, number: int) -> types.RunDetail:
        return cast(types.RunDetail, self.request("POST", f"/runs/{number}/continue", body={}))

    def run_events(self, number: int, *, after: int | None = None) -> Iterator[types.RunEvent]:
        return self.pages(f"/runs/{number}/events", {"after": after})

    def wait_for_run(
        self, number: int, *, timeout: float | None = None, interval: float = 5.0
    ) -> types.RunDetail:
        """Return the run once it has ended. Raises TimeoutError after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while (run := self.run(number))["state"] not in ENDED:
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"Run {number} has not ended; it is {run['state']}.")
            time.sleep(interval)
        return run

    # --- snapshots, models and evaluations --------------------------------------------------------

    def snapshots(self, *, project: str | None = None) -> Iterator[types.Snapshot]:
        return self.pages("/snapshots", {"project": project})

    def snapshot(self, number: int) -> types.SnapshotDetail:
        return cast(types.SnapshotDetail, self.request("GET", f"/snapshots/{number}"))

    def freeze(self, project: str, **filter: Any) -> types.SnapshotDetail:
        """Freeze the rankings of a project. The arguments are the fields of the form."""
        body = {"project": project, "filter": filter}
        return cast(types.SnapshotDetail, self.request("POST", "/snapshots", body=body))

    def snapshot_file(self, number: int) -> bytes:
        """Return the rankings of a snapshot as a Parquet file."""
        return self.send("GET", f"/snapshots/{number}/file").content

    def models(
        self, *, project: str | None = None, state: types.ModelState | None = None
    ) -> Iterator[types.LanguageModel]:
        return self.pages("/models", {"project": project, "state": state})

    def model(self, number: int) -> types.LanguageModelDetail:
        return cast(types.LanguageModelDetail, self.request("GET", f"/models/{number}"))

    def move_model(
        self, number: int, action: Action, *, reason: str = ""
    ) -> types.LanguageModelDetail:
        """Promote, archive or restore a model. A promotion against doubts needs a reason."""
        answer = self.request("POST", f"/models/{number}/{action}", body={"reason": reason})
        return cast(types.LanguageModelDetail, answer)

    def reward_models(
        self, *, project: str | None = None, state: types.ModelState | None = None
    ) -> Iterator[types.Model]:
        return self.pages("/reward-models", {"project": project, "state": state})

    def reward_model(self, number: int) -> types.RewardModelDetail:
        return cast(types.RewardModelDetail, self.request("GET", f"/reward-models/{number}"))

    def move_reward_model(
        self, number: int, action: Action, *, reason: str = ""
    ) -> types.RewardModelDetail:
        path = f"/reward-models/{number}/{action}"
        return cast(types.RewardModelDetail, self.request("POST", path, body={"reason": reason}))

    def evaluations(
        self, *, project: str | None = None, candidate: int | None = None
    ) -> Iterator[types.Evaluation]:
        return self.pages("/evaluations", {"project": project, "candidate": candidate})

    def evaluation(self, number: int) -> types.EvaluationDetail:
        return cast(types.EvaluationDetail, self.request("GET", f"/evaluations/{number}"))

    def evaluate(
        self, candidate: int, *, config: Mapping[str, Any] | None = None, **inputs: Any
    ) -> types.RunDetail:
        """Queue the run of an evaluation. `inputs` are the fields of its form."""
        body = {"inputs": {"candidate": candidate, **inputs}, "config": dict(config or {})}
        return cast(types.RunDetail, self.request("POST", "/evaluations", body=body))

    # --- scores -----------------------------------------------------------------------------------

    def score(
        self,
        conversations: Sequence[Messages],
        *,
        project: str | None = None,
        model: int | None = None,
    ) -> list[types.Score]:
        """Score conversations, up to 256. The last message of each is the response."""
        body = [{"messages": list(messages)} for messages in conversations]
        params = {"project": project, "model": model}
        return cast(list[types.Score], self.request("POST", "/score", body=body, params=params))

    def best_of_n(
        self,
        prompt: str | Messages,
        responses: Sequence[str],
        *,
        project: str | None = None,
        model: int | None = None,
    ) -> types.Best:
        """Score several responses to a prompt."""
        body = {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "responses": list(responses),
        }
        params = {"project": project, "model": model}
        return cast(types.Best, self.request("POST", "/best-of-n", body=body, params=params))

    # --- webhooks ---------------------------------------------------------------------------------

    def webhooks(self, slug: str) -> Iterator[types.Webhook]:
        return self.pages(_project(slug, "webhooks"))

    def add_webhook(
        self, slug: str, url: str, events: Sequence[types.EventName]
    ) -> types.NewWebhook:
        """Add a webhook. The answer contains its secret, which is shown only once."""
        body = {"url": url, "events": list(events)}
        return cast(types.NewWebhook, self.request("POST", _project(slug, "webhooks"), body=body))

    def set_webhook_active(self, slug: str, number: int, active: bool) -> types.Webhook:
        path = _project(slug, "webhooks", number)
        return cast(types.Webhook, self.request("PATCH", path, body={"active": active}))

    def remove_webhook(self, slug: str, number: int) -> None:
        self.request("DELETE", _project(slug, "webhooks", number))

    def deliveries(self, slug: str, number: int) -> Iterator[types.Delivery]:
        return self.pages(_project(slug, "webhooks", number, "deliveries"))

    def redeliver(self, slug: str, number: int, delivery: int) -> types.Delivery:
        path = _project(slug, "webhooks", number, "deliveries", delivery, "redeliver")
        return cast(types.Delivery, self.request("POST", path, body={}))


def _project(slug: str, *parts: str | int) -> str:
    """Return the path of a project's resource, with every part quoted."""
    return "/" + "/".join(quote(str(part), safe="") for part in ("projects", slug, *parts))
