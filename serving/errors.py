"""The errors of the client of the model server. Their texts are sentences for people."""


class ServingError(Exception):
    """An error of the model server. Subclasses say what a caller can do about it."""


class NotRunning(ServingError):  # noqa: N818
    """The server cannot be reached, or stopped in the middle of an answer. Try again later."""


class Busy(ServingError):  # noqa: N818
    """The server has as many requests as it accepts. Try again in a few seconds."""


class TooSlow(ServingError):  # noqa: N818
    """The answer was not complete within the time limit of the request."""


class Refused(ServingError):  # noqa: N818
    """The request is not valid. The same request fails again."""


class TooLong(Refused):
    """The chat with its answer is longer than the model can read or the server allows."""


class TooLarge(Refused):
    """The request needs more memory than the server may use."""


class CannotLoad(ServingError):  # noqa: N818
    """The model cannot be loaded, or the server failed. The operator must look at its log."""


class NotAllowed(ServingError):  # noqa: N818
    """The server refused the shared token."""
