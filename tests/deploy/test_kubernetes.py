"""The manifests fit the schemas of Kubernetes, the hardening rules and the settings; no cluster."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from preceptor_clients.contract.deployment import parse_deployment
from preceptor_services.supervisor.deploy import key_files, password_files

from .compose_rules import ROOT, load_compose

FOLDER = ROOT / "deploy"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
FILES = [*KUSTOMIZATION["resources"], "kubernetes/trainer.yaml"]
OBJECTS = {
    f"{one['kind']}/{one['metadata']['name']}": one
    for file in FILES
    for one in yaml.safe_load_all((FOLDER / file).read_text())
}
WORKLOADS = {n: o for n, o in OBJECTS.items() if "template" in o["spec"]}
KEDA = {n: o for n, o in OBJECTS.items() if o["apiVersion"].startswith("keda.sh/")}
SETTINGS = parse_deployment((FOLDER / "preceptor.toml").read_text())
COMPOSE = load_compose()["services"]


def _pod(name: str) -> dict[str, Any]:
    return WORKLOADS[name]["spec"]["template"]["spec"]


def _container(name: str) -> dict[str, Any]:
    [container] = _pod(name)["containers"]
    return container


def _secrets(name: str) -> set[str]:
    volumes = _pod(name)["volumes"]
    return {v["secret"]["secretName"] for v in volumes if "secret" in v}


@pytest.mark.parametrize("name", sorted(OBJECTS.keys() - KEDA.keys()))
@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_a_manifest_fits_the_schema_of_kubernetes(name: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[name], version, strict=True)


def test_the_schema_refuses_a_field_that_does_not_exist() -> None:
    gateway = OBJECTS["Deployment/gateway"]
    wrong = {**gateway, "spec": {**gateway["spec"], "replica": 2}}

    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_s10_a_pod_is_hardened(name: str) -> None:
    pod, container = _pod(name), _container(name)

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize("name", [n for n in WORKLOADS if n != "Job/trainer"])
def test_a_server_says_when_it_is_ready(name: str) -> None:
    assert "readinessProbe" in _container(name)


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_no_secret_is_in_the_environment(name: str) -> None:
    for variable in _container(name).get("env", []):
        assert "valueFrom" not in variable
        if any(word in variable["name"] for word in ("PASSWORD", "KEY", "TOKEN", "SECRET")):
            assert variable["name"].endswith("_FILE")


def test_every_folder_of_keys_is_a_secret_that_somebody_mounts() -> None:
    files = [*key_files(SETTINGS), *password_files(SETTINGS)]
    mounted = set().union(*(_secrets(name) for name in WORKLOADS))

    assert mounted == {f"keys-{file.parent.name}" for file in files}


@pytest.mark.parametrize("name", ["gateway", "dispatcher", "self-teacher", "people", "executor"])
def test_a_process_gets_the_keys_that_it_gets_in_compose(name: str) -> None:
    volumes = {v.partition(":")[0] for v in COMPOSE[name]["volumes"] if v.startswith("keys-")}

    assert _secrets(f"Deployment/{name}") == volumes - {"keys-added", "keys-judge"}


@pytest.mark.parametrize("name", ["gateway", "dispatcher", "self-teacher", "people", "executor"])
def test_a_process_has_the_command_and_the_time_to_stop_of_compose(name: str) -> None:
    workload, served = f"Deployment/{name}", COMPOSE[name]

    assert _container(workload)["args"] == served["command"]
    grace_s = int(served["stop_grace_period"].removesuffix("s"))
    assert _pod(workload)["terminationGracePeriodSeconds"] == grace_s


@pytest.mark.parametrize(("role", "name", "service"), list(SETTINGS.services()))
def test_a_service_of_the_settings_is_found_under_its_name(role, name, service) -> None:
    url = urlsplit(service.url)
    found = OBJECTS[f"Service/{url.hostname}"]["spec"]

    assert found["ports"][0]["port"] == url.port
    labels = WORKLOADS[f"Deployment/{name}"]["spec"]["template"]["metadata"]["labels"]
    assert found["selector"].items() <= labels.items()


@pytest.mark.parametrize("url", [SETTINGS.gateway.database, SETTINGS.gateway.broker])
def test_database_and_broker_are_found_under_the_names_of_the_settings(url: str) -> None:
    parts = urlsplit(url)

    assert OBJECTS[f"Service/{parts.hostname}"]["spec"]["ports"][0]["port"] == parts.port


def test_the_settings_are_the_file_of_compose() -> None:
    assert KUSTOMIZATION["configMapGenerator"] == [
        {"name": "settings", "files": ["preceptor.toml"]}
    ]


@pytest.mark.parametrize("name", [n for n in KEDA if n.startswith("ScaledObject/")])
def test_scaling_is_by_our_own_queue_depth_and_never_from_zero(name: str) -> None:
    # KEDA's schemas are in no Python package; scripts/check-kubernetes checks the file by them.
    spec = KEDA[name]["spec"]

    assert f"Deployment/{spec['scaleTargetRef']['name']}" in WORKLOADS
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    names = {service for _, service, _ in SETTINGS.services()}
    for trigger in spec["triggers"]:
        assert trigger["type"] == "metrics-api"
        place = trigger["metadata"]["valueLocation"]
        assert place.startswith('preceptor_queue_depth{service="')
        assert place.split('"')[1] in names
        assert trigger["metadata"]["url"] == "http://gateway:8080/metrics"
        assert f"TriggerAuthentication/{trigger['authenticationRef']['name']}" in KEDA


def test_what_keda_scales_names_no_number_of_its_own() -> None:
    # `kubectl apply` would set it back each time.
    scaled = {o["spec"]["scaleTargetRef"]["name"] for n, o in KEDA.items() if "Scaled" in n}

    assert scaled == {"dispatcher", "self-teacher", "executor"}
    assert all("replicas" not in OBJECTS[f"Deployment/{name}"]["spec"] for name in scaled)


def test_the_executor_may_start_no_connection_and_storage_takes_only_its_users() -> None:
    executor = OBJECTS["NetworkPolicy/executor-reaches-nothing"]["spec"]
    assert (executor["policyTypes"], executor["egress"]) == (["Egress"], [])
    callers = {
        name: {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for rule in OBJECTS[f"NetworkPolicy/to-{name}"]["spec"]["ingress"]
            for peer in rule["from"]
        }
        for name in ("broker", "database", "executor")
    }

    assert callers == {
        "broker": {"gateway", "dispatcher"},
        "database": {"gateway"},
        "executor": {"gateway", "dispatcher"},
    }


def test_several_gateways_share_volumes_that_several_nodes_may_mount() -> None:
    assert OBJECTS["Deployment/gateway"]["spec"]["replicas"] > 1
    for name in ("data", "runs"):
        modes = OBJECTS[f"PersistentVolumeClaim/{name}"]["spec"]["accessModes"]
        assert modes == ["ReadWriteMany"]
