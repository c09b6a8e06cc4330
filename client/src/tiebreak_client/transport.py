"""Requests to the API: tokens, errors, pages, and repetitions of requests that failed."""

import time
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from tiebreak_client.errors import ApiError, NotReachable

REPEATED = (429, 502, 503, 504)
LONGEST_WAIT = 60.0


class Transport:
    """A connection to a server with a token.

    A request is repeated up to `retries` times after a network error, or after an answer that asks to
    wait. POST requests have an idempotency key, so that a repetition has no second effect.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        http: httpx.Client | None = None,
    ) -> None:
        self._retries = retries
        self._http = http or httpx.Client(timeout=timeout)
        self._base = url.rstrip("/") + "/api/v1"
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "tiebreak-client"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Return the JSON content of the answer, or None if it has none.

        Raises ApiError for an error, and NotReachable without an answer.
        """
        response = self.send(
            method, path, body=body, params=params, idempotency_key=idempotency_key
        )
        return response.json() if response.content else None

    def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> httpx.Response:
        headers = dict(self._headers)
        if method == "POST":
            headers["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        given = {name: value for name, value in (params or {}).items() if value is not None}
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = self._http.request(
                    method, self._base + path, json=body, params=given, headers=headers
                )
            except httpx.TransportError as error:
                if last:
                    text = f"The server gave no answer: {error}"
                    raise NotReachable(text) from error
                time.sleep(min(0.5 * 2**attempt, LONGEST_WAIT))
                continue
            if response.status_code in REPEATED and not last:
                time.sleep(_wait(response, attempt))
                continue
            return _checked(response)
        raise AssertionError("The loop returns or raises in its last round.")

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """Yield the items of a list, and read its pages one after the other."""
        after = (params or {}).get("after")
        while True:
            page = self.request("GET", path, params={**(params or {}), "after": after})
            yield from page["items"]
            after = page["next"]
            if after is None:
                return


def _wait(response: httpx.Response, attempt: int) -> float:
    """Return the seconds to wait before the next attempt, as the server asks."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        seconds = 0.5 * 2**attempt
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _checked(response: httpx.Response) -> httpx.Response:
    if response.status_code < 400:
        return response
    try:
        content = response.json()
    except ValueError:
        content = None
    raise ApiError.of(response.status_code, content)
