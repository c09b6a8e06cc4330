from typing import Any


class ApiError(Exception):
    """An answer with an error. The text is the server's sentence.

    `errors` has the wrong fields of a request with status 422: "at" is the path, "what" the reason.
    """

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors or []

    @classmethod
    def of(cls, status: int, content: Any) -> "ApiError":
        """Return the error for the JSON content of an answer, or for None."""
        if not isinstance(content, dict):
            return cls(status, f"The server answered with status {status}.")
        detail = str(content.get("detail") or f"The server answered with status {status}.")
        errors = content.get("errors")
        return cls(status, detail, errors if isinstance(errors, list) else None)


class NotReachable(Exception):  # noqa: N818
    """Raised if the server gave no answer, after all repetitions."""
