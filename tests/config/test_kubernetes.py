"""Tests of the manifests in deploy/kubernetes against the schemas of Kubernetes, and of their security."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from config.env import BASE_DIR, VARIABLES
from runs.supervision.environment import allowed

FOLDER = BASE_DIR / "deploy" / "kubernetes"
DOCUMENTS = [
    (path.name, document)
    for path in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
RAY = next(document for _, document in DOCUMENTS if document["kind"] == "RayCluster")
OTHERS = [document for _, document in DOCUMENTS if document is not RAY]
OF_RAY = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}


def name_of(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def ray_groups() -> list[dict[str, Any]]:
    return [RAY["spec"]["headGroupSpec"], *RAY["spec"]["workerGroupSpecs"]]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in OTHERS:
        if document["kind"] in ("Deployment", "Job"):
            yield name_of(document), document["spec"]["template"]["spec"]
    for group in ray_groups():
        yield f"Ray-{group.get('groupName', 'head')}", group["template"]["spec"]


PODS = dict(pods())
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_the_manifests_match_the_schemas_of_kubernetes(version):
    for document in OTHERS:
        kubernetes_validate.validate(document, version, strict=True)
    for name, pod in PODS.items():
        wrapped = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name.lower()},
            "spec": pod,
        }
        kubernetes_validate.validate(wrapped, version, strict=True)


def test_a_wrong_manifest_is_found():
    wrong = {**OTHERS[0], "metadata": {"name": "x", "lables": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_the_ray_cluster_has_only_fields_of_its_definition():
    assert (RAY["apiVersion"], RAY["kind"]) == ("ray.io/v1", "RayCluster")
    assert RAY["spec"].keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    head, *workers = ray_groups()
    assert head.keys() == {"rayStartParams", "template"}
    for group in workers:
        fields = {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
            "rayStartParams",
            "template",
        }
        assert group.keys() == fields
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in ray_groups():
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert group["template"].keys() == {"spec"}
    pins = (BASE_DIR / "constraints.txt").read_text()
    assert f"ray=={RAY['spec']['rayVersion']}\n" in pins


@pytest.mark.parametrize("name", PODS)
def test_containers_have_no_privileges_and_limited_resources(name):
    pod, container = PODS[name], CONTAINERS[name]
    assert len(pod["containers"]) == 1 and pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", PODS)
def test_secrets_are_references_and_settings_exist(name):
    for variable in CONTAINERS[name]["env"]:
        known = (
            variable["name"] in VARIABLES or allowed(variable["name"]) or variable["name"] in OF_RAY
        )
        assert known, variable["name"]
        if "value" not in variable:
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "tiebreak"
        elif re.search("KEY|TOKEN|SECRET|URL|PASSWORD", variable["name"]):
            assert variable["value"] in ("signs-nothing-outside-the-web", "/tls/tls.key")


def test_the_settings_of_the_config_map_exist():
    (config,) = [document for document in OTHERS if document["kind"] == "ConfigMap"]
    assert all(name in VARIABLES or allowed(name) for name in config["data"])
    named = set(
        re.findall(r"^#   (TIEBREAK_\w+): ", (FOLDER / "ray-cluster.yaml").read_text(), re.M)
    )
    assert len(named) == 4 and named <= VARIABLES.keys()


def test_only_the_web_and_live_servers_have_the_key_that_signs_sessions():
    def has_key(container: dict[str, Any]) -> bool:
        keys = [v.get("valueFrom", {}).get("secretKeyRef", {}).get("key") for v in container["env"]]
        return "secret-key" in keys

    assert {name for name in PODS if has_key(CONTAINERS[name])} == {
        "Deployment-web",
        "Deployment-live",
    }


def test_the_documentation_names_every_file_and_every_key_of_the_secret():
    text = (BASE_DIR / "docs" / "kubernetes.md").read_text()
    assert all(f"`{name}`" in text for name, _ in DOCUMENTS)
    for container in CONTAINERS.values():
        for variable in container["env"]:
            if "valueFrom" in variable:
                key = variable["valueFrom"]["secretKeyRef"]["key"]
                assert f"`{key}`" in text or f"{key}=" in text, key


def test_the_web_server_is_probed_and_workers_are_not():
    web = CONTAINERS["Deployment-web"]
    assert web["livenessProbe"]["exec"]["command"][-1].endswith("/health/")
    assert web["readinessProbe"]["exec"]["command"][-1].endswith("/ready/")
    for name in ("worker", "gpu-worker", "scheduler"):
        assert not {"livenessProbe", "readinessProbe"} & CONTAINERS[f"Deployment-{name}"].keys()


def test_services_and_the_ingress_lead_to_pods():
    deployments = [document for document in OTHERS if document["kind"] == "Deployment"]
    services = {d["metadata"]["name"]: d for d in OTHERS if d["kind"] == "Service"}
    for service in services.values():
        selector = service["spec"]["selector"]
        (target,) = [
            d for d in deployments if d["spec"]["template"]["metadata"]["labels"] == selector
        ]
        ports = {
            port["name"] for port in target["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    (ingress,) = [document for document in OTHERS if document["kind"] == "Ingress"]
    for path in ingress["spec"]["rules"][0]["http"]["paths"]:
        assert path["backend"]["service"]["name"] in services


def test_the_commands_are_those_of_the_compose_file():
    compose = yaml.safe_load((BASE_DIR / "docker-compose.yml").read_text())["services"]
    names = {"live": "live", "worker": "worker", "gpu-worker": "gpu-worker", "scheduler": "beat"}
    for name, service in names.items():
        assert CONTAINERS[f"Deployment-{name}"]["args"] == compose[service]["command"]
    assert CONTAINERS["Job-migrate"]["args"] == compose["migrate"]["command"]


def test_one_scheduler_runs_and_a_gpu_worker_has_time_for_a_checkpoint():
    scheduler = next(d for d in OTHERS if d["metadata"]["name"] == "scheduler")
    assert (scheduler["spec"]["replicas"], scheduler["spec"]["strategy"]) == (
        1,
        {"type": "Recreate"},
    )
    config = next(d for d in OTHERS if d["kind"] == "ConfigMap")
    grace = int(config["data"]["TIEBREAK_RUN_GRACE_SECONDS"])
    assert PODS["Deployment-gpu-worker"]["terminationGracePeriodSeconds"] >= grace + 30
