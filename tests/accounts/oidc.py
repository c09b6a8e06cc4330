"""An OpenID Connect provider for tests, which can send anything a hostile or broken one could."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from django.core.cache import cache
from django.test import Client


class FakeProvider:
    """The provider's answers. A test changes them before it signs in."""

    def __init__(self, issuer: str, key: rsa.RSAPrivateKey) -> None:
        self.issuer, self.key = issuer, key
        self.reset()

    def reset(self) -> None:
        cache.clear()  # the provider's metadata
        self.claims: dict[str, Any] = {"sub": "1", "preferred_username": "ada"}
        self.user_info: dict[str, Any] | None = None
        self.metadata: dict[str, Any] = {}
        self.signing_key: Any = self.key
        self.algorithm = "RS256"
        self.nonce = ""
        self.tokens: Any = None

    def id_token(self) -> str:
        now = int(time.time())
        standard = {
            "iss": self.issuer, "aud": "tiebreak", "iat": now, "exp": now + 300, "nonce": self.nonce,
        }  # fmt: skip
        claims = {name: v for name, v in {**standard, **self.claims}.items() if v is not None}
        return jwt.encode(claims, self.signing_key, self.algorithm, headers={"kid": "one"})

    def answer(self, path: str) -> Any:
        if path.endswith("/openid-configuration"):
            names = {"authorization": "auth", "token": "token", "userinfo": "userinfo"}
            endpoints = {f"{k}_endpoint": f"{self.issuer}/{v}" for k, v in names.items()}
            standard = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **endpoints}
            return {**standard, **self.metadata}
        if path == "/keys":
            public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
            return {"keys": [{**public, "kid": "one", "use": "sig"}]}
        if path == "/token":
            tokens = {"access_token": "a", "token_type": "Bearer", "id_token": self.id_token()}
            return tokens if self.tokens is None else self.tokens
        return self.user_info or {"sub": self.claims["sub"]}


@contextmanager
def running() -> Iterator[FakeProvider]:
    """Run a provider on a free port of this machine."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps(provider.answer(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = FakeProvider(f"http://127.0.0.1:{server.server_port}", key)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield provider
    server.shutdown()
    thread.join()
    server.server_close()


def start(client: Client, name: str = "company", query: str = "", **form: str) -> dict[str, str]:
    """Start to sign in, and return the parameters with which the provider is asked."""
    page = client.post(f"/sign-in/oidc/{name}/{query}", form).content.decode()
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', page)
    assert found, page
    asked = parse_qs(urlsplit(unescape(found[1])).query)
    return {key: values[0] for key, values in asked.items()}


def sign_in(client: Client, provider: FakeProvider, **form: str) -> Any:
    """Sign in through the provider, and return the last response."""
    asked = start(client, **form)
    provider.nonce = provider.nonce or asked["nonce"]
    return finish(client, asked["state"])


def finish(client: Client, state: str, name: str = "company", code: str = "c") -> Any:
    return client.get(f"/sign-in/oidc/{name}/callback/", {"code": code, "state": state})
