"""HTTP requests to the services that get promotions, with their errors as sentences."""

from typing import Any
from urllib.parse import urlsplit

import httpx2

CONNECT_SECONDS = 5.0
SECONDS = 20.0
MAX_REASON = 200


class NotDelivered(Exception):  # noqa: N818
    """Raised if a service did not accept a promotion. The text is a sentence without secrets."""


class Refused(NotDelivered):
    """Raised if the service answered with an error. `code` is its name of the error, or ""."""

    def __init__(self, text: str, code: str = ""):
        super().__init__(text)
        self.code = code


class JsonClient:
    """A client of a service with a JSON API. `name` is its name in messages. Redirects are refused."""

    def __init__(self, name: str, url: str, headers: dict[str, str], auth: Any = None):
        self.name = name
        self.host = urlsplit(url).netloc
        self.http = httpx2.Client(
            base_url=url,
            headers=headers,
            auth=auth,
            timeout=httpx2.Timeout(SECONDS, connect=CONNECT_SECONDS),
        )

    def __enter__(self) -> "JsonClient":
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        return self._answer("GET", path, params=params)

    def post(self, path: str, **content: Any) -> dict[str, Any]:
        return self._answer("POST", path, json=content)

    def post_text(self, path: str, **content: Any) -> str:
        """Return the answer as text, for methods that do not answer with JSON."""
        return self._response("POST", path, json=content).text

    def _answer(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        content = content_of(self._response(method, path, **options))
        if not isinstance(content, dict):
            raise NotDelivered(f"{self.name} at {self.host} did not answer {path} with JSON.")
        return content

    def _response(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self.http.request(method, path, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = str(error)[:MAX_REASON].rstrip(".") or type(error).__name__
            raise NotDelivered(f"{self.name} at {self.host} cannot be reached: {reason}.") from None
        if response.status_code != 200:
            raise self._refusal(response)
        return response

    def _refusal(self, response: httpx2.Response) -> Refused:
        content = content_of(response)
        content = content if isinstance(content, dict) else {}
        error = content.get("error")
        message = error.get("message") if isinstance(error, dict) else content.get("message")
        reason = " ".join(str(message or response.text).split())[:MAX_REASON].rstrip(".")
        return Refused(
            f"{self.name} at {self.host} answered with status {response.status_code}: "
            f"{reason or 'no reason given'}.",
            str(content.get("error_code") or ""),
        )


def content_of(response: httpx2.Response) -> Any:
    """Return the JSON value of a response, or None."""
    try:
        return response.json()
    except ValueError:
        return None
