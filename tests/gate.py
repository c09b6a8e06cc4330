"""A gate in front of the live server, so that no request uses the database while it is emptied."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Gate:
    """A WSGI application that passes requests to another one, or refuses them while it is closed.

    A browser that closes may leave requests behind: one that the server is still answering, and one
    that arrives later, such as the last draft of a page.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.is_open = True
        self.in_progress: list[str] = []
        self.changed = threading.Condition()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        if not self.admit(request):
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        try:
            response = self.application(environ, start_response)
        except BaseException:
            self.end(request)
            raise
        return Reply(response, lambda: self.end(request))

    def admit(self, request: str) -> bool:
        with self.changed:
            if self.is_open:
                self.in_progress.append(request)
            return self.is_open

    def end(self, request: str) -> None:
        with self.changed:
            self.in_progress.remove(request)
            self.changed.notify_all()

    def open(self) -> None:
        with self.changed:
            self.is_open = True

    def close(self, seconds: float = 60) -> None:
        """Refuse new requests, and wait until none is in progress. Raise TimeoutError otherwise."""
        with self.changed:
            self.is_open = False
            if not self.changed.wait_for(lambda: not self.in_progress, seconds):
                requests = ", ".join(self.in_progress)
                raise TimeoutError(
                    f"The live server is still answering after {seconds} seconds: {requests}."
                )


class Reply:
    """The body of a response, with a function that is called after the response was closed.

    Django ends a request, and its use of the database, when the server closes the response.
    """

    def __init__(self, response: Iterable[bytes], on_close: Callable[[], None]) -> None:
        self.response = response
        self.on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.response)

    def close(self) -> None:
        try:
            if close := getattr(self.response, "close", None):
                close()
        finally:
            self.on_close()
