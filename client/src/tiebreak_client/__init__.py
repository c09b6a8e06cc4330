"""A typed client for the API of Tiebreak."""

from tiebreak_client.client import Client
from tiebreak_client.errors import ApiError, NotReachable
from tiebreak_client.webhooks import InvalidSignature, verify

__all__ = ["ApiError", "Client", "InvalidSignature", "NotReachable", "verify"]
