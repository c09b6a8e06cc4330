"""Tests of the privileges and secrets of the services in docker-compose.yml."""

import importlib
import os
import re
import subprocess
import sys

import pytest
import yaml

from config.env import BASE_DIR

SERVICES = yaml.safe_load((BASE_DIR / "docker-compose.yml").read_text())["services"]
WEB_SECRETS = {
    "POSTGRES_PASSWORD", "REDIS_PASSWORD", "TIEBREAK_METRICS_TOKEN", "TIEBREAK_SECRET_KEY",
    "TIEBREAK_VLLM_KEY",
}  # fmt: skip
SECRETS = {
    "postgres": {"POSTGRES_PASSWORD"},
    "redis": {"REDIS_PASSWORD"},
    "migrate": {"POSTGRES_PASSWORD", "REDIS_PASSWORD"},
    "web": WEB_SECRETS,
    "live": WEB_SECRETS,
    "worker": {
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "TIEBREAK_EMAIL_URL",
        "TIEBREAK_VLLM_KEY",
        "TIEBREAK_WEBHOOK_SECRET",
    },
    "beat": {"POSTGRES_PASSWORD", "REDIS_PASSWORD"},
    "gpu-worker": {
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "HF_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "WANDB_API_KEY",
    },
    "model-server": set(),
    "caddy": set(),
}
SECRET = re.compile(
    r"\$\{(\w*(?:PASSWORD|SECRET_KEY|WEBHOOK_SECRET|API_KEY|EMAIL_URL|TOKEN|VLLM_KEY))\b"
)


def test_the_compose_file_follows_its_schema():
    ended = subprocess.run(
        [
            sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
            str(BASE_DIR / "docker-compose.yml"),
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_or_can_gain_privileges(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"] and not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert name == "postgres" or "cap_add" not in service


def test_each_service_has_only_the_secrets_it_uses():
    known = {name: set(SECRET.findall(str(service))) for name, service in SERVICES.items()}
    assert known == SECRETS


def test_passwords_are_required_and_databases_publish_no_port():
    text = (BASE_DIR / "docker-compose.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "TIEBREAK_SECRET_KEY"):
        assert set(re.findall(rf"\$\{{{name}([^}}]*)\}}", text)) == {f":?set {name}"}
    assert {name for name, service in SERVICES.items() if "ports" in service} == {
        "web", "live", "caddy",
    }  # fmt: skip


def test_the_password_of_redis_is_not_an_argument():
    command = SERVICES["redis"]["command"]
    assert "requirepass" in command[2] and "--requirepass" not in command[2]
    script = command[2].replace("$$", "$").split("|")[0]
    printed = subprocess.run(
        ["sh", "-c", script], env={"REDIS_PASSWORD": "pass-1"}, capture_output=True, text=True
    )
    assert printed.stdout == "requirepass pass-1\n"


def test_the_model_server_starts_without_database_and_secrets():
    environment = {"PATH": os.environ["PATH"]}
    ended = subprocess.run(
        [sys.executable, *SERVICES["model-server"]["command"][1:3], "--help"],
        cwd=BASE_DIR, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0 and "socket" in ended.stdout


def test_the_gpu_image_has_what_triton_and_qlora_need():
    dockerfile = (BASE_DIR / "Dockerfile").read_text()
    [line] = [row for row in dockerfile.splitlines() if "apt-get install" in row]
    assert 'if [ -n "$EXTRAS" ]' in line, "the image of the web server needs no compiler"
    assert {"gcc", "g++", "libc6-dev"} <= set(line.split())
    for name in ("gpu-worker", "model-server"):
        assert SERVICES[name]["build"]["args"]["EXTRAS"] == "train,quantize"


def test_the_live_server_publishes_the_port_it_listens_on():
    command, ports = SERVICES["live"]["command"], SERVICES["live"]["ports"]
    assert command[command.index("--port") + 1] == ports[0].rsplit(":", 1)[1]
    module, name = command[1].split(":")
    assert hasattr(importlib.import_module(module), name)
