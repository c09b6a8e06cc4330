"""Tests of the error of a model that the hub gives no access to, with a local server as the hub."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

PROGRAM = """
from finetune.training.models.language_model import load_model, load_tokenizer
from recipes.errors import RecipeError
from reward.training.models.reward_model import load_tokenizer as load_reward_tokenizer
from reward.training.models.reward_model import refuse_family

for load in (load_tokenizer, lambda n: load_model(n, "float32"), load_reward_tokenizer, refuse_family):
    try:
        load("org/gated")
    except RecipeError as error:
        print(error)
"""


@pytest.fixture
def hub():
    """Yield a function that sets the answer of a server, and the address of the server."""
    answer = {}

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answer["status"])
            for name, value in answer["headers"].items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield answer, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def refusals(address, cache, **environment):
    """Return the errors of loading a tokenizer and a model, as a policy and as a reward model."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**inherited, "HF_ENDPOINT": address, "HF_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    errors = ended.stdout.splitlines()
    assert len(errors) == 4
    return errors


def test_the_error_of_a_gated_model_explains_access(hub, tmp_path):
    answer, address = hub
    answer |= {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}
    for text in refusals(address, tmp_path):
        assert "org/gated cannot be loaded" in text
        assert "Accept its conditions on its page" in text and "HF_TOKEN is not set" in text


def test_a_refused_token_is_mentioned(hub, tmp_path):
    answer, address = hub
    answer |= {"status": 401, "headers": {"X-Error-Code": "RepoNotFound"}}
    for text in refusals(address, tmp_path, HF_TOKEN="hf_old"):
        assert "gated or private, or does not exist" in text and "HF_TOKEN is set" in text
        assert "hf_old" not in text


def test_other_errors_have_no_advice_about_access(hub, tmp_path):
    answer, address = hub
    answer |= {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}}
    for text in refusals(address, tmp_path):
        assert "cannot be loaded" in text and "HF_TOKEN" not in text
