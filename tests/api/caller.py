"""A client of the API with the token of a user."""

import json

from django.test import Client

from accounts.models import Scope, Token


class Caller:
    def __init__(self, user, *, scopes=Scope, **fields):
        self.user = user
        self.token, self.key = Token.issue(user=user, name="test", scopes=scopes, **fields)
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=False)

    def ask(self, method, where, body=None, **headers):
        headers = {"Authorization": f"Bearer {self.key}", **headers}
        text = body if isinstance(body, str) else json.dumps(body) if body is not None else ""
        return self.client.generic(
            method, f"/api/{where}", text, content_type="application/json", headers=headers
        )

    def get(self, where, **headers):
        return self.ask("GET", f"v1/{where}", **headers)

    def post(self, where, body=None, **headers):
        return self.ask("POST", f"v1/{where}", body or {}, **headers)


def refused(answer, status, sentence=""):
    """Check that the answer is problem+json with this status, and return its content."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    payload = answer.json()
    assert payload["status"] == status and sentence in payload["detail"], payload
    return payload
