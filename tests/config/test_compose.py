"""Tests of the privileges and secrets of the services in docker-compose.yml."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from config.env import BASE_DIR

SERVICES = yaml.safe_load((BASE_DIR / "docker-compose.yml").read_text())["services"]
SECRETS = {
    "postgres": {"POSTGRES_PASSWORD"},
    "redis": {"REDIS_PASSWORD"},
    "migrate": {"POSTGRES_PASSWORD", "REDIS_PASSWORD"},
    "web": {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "TIEBREAK_SECRET_KEY"},
    "worker": {"POSTGRES_PASSWORD", "REDIS_PASSWORD"},
    "beat": {"POSTGRES_PASSWORD", "REDIS_PASSWORD"},
    "gpu-worker": {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "HF_TOKEN"},
    "scorer": set(),
}
SECRET = re.compile(r"\$\{(\w*(?:PASSWORD|SECRET_KEY|TOKEN))\b")


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
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"web"}


def test_the_password_of_redis_is_not_an_argument():
    command = SERVICES["redis"]["command"]
    assert "requirepass" in command[2] and "--requirepass" not in command[2]
    script = command[2].replace("$$", "$").split("|")[0]
    printed = subprocess.run(
        ["sh", "-c", script], env={"REDIS_PASSWORD": "pass-1"}, capture_output=True, text=True
    )
    assert printed.stdout == "requirepass pass-1\n"


def test_the_scorer_starts_without_database_and_secrets():
    environment = {"PATH": os.environ["PATH"]}
    ended = subprocess.run(
        [sys.executable, *SERVICES["scorer"]["command"][1:3], "--help"],
        cwd=BASE_DIR, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0 and "socket" in ended.stdout


def test_the_gpu_image_has_what_triton_and_qlora_need():
    dockerfile = (BASE_DIR / "Dockerfile").read_text()
    [line] = [row for row in dockerfile.splitlines() if "apt-get install" in row]
    assert 'if [ -n "$EXTRAS" ]' in line, "the image of the web server needs no compiler"
    assert {"gcc", "g++", "libc6-dev"} <= set(line.split())
    for name in ("gpu-worker", "scorer"):
        assert SERVICES[name]["build"]["args"]["EXTRAS"] == "train,quantize"
