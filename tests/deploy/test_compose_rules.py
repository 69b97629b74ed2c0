"""docker-compose.yml keeps the hardening rules, and serves what its settings name; no Docker."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from compose_rules import ROOT, RULES, broken, load_compose, runs_once

from preceptor_clients.cli.new_expert import write_expert
from preceptor_clients.contract.deployment import parse_deployment
from preceptor_services.dispatcher.worker import WorkerConfig
from preceptor_services.gateway import __main__ as gateway
from preceptor_services.supervisor.deploy import key_files, password_files

COMPOSE = load_compose()
SERVICES = COMPOSE["services"]
SETTINGS = parse_deployment((ROOT / "deploy" / "preceptor.toml").read_text())

PLANTED = {
    "read-only root": {"read_only": False},
    "no capabilities": {"cap_drop": ["NET_RAW"]},
    "no new privileges": {"security_opt": ["seccomp:unconfined"]},
    "not root": {"user": "0:0"},
    "health check": {"healthcheck": {"disable": True}},
    "secrets in files": {"environment": {"POSTGRES_PASSWORD": "preceptor"}},
    "loopback": {"ports": ["8080:8080"]},
    "a version": {"image": "registry:5000/redis"},
    "nothing of the host": {"privileged": True},
    "no mount to write": {"volumes": ["/var/run/docker.sock:/var/run/docker.sock:ro"]},
    "bounded log": {"logging": {}},
    "an end to restarts": {"restart": "always"},
}


def mounts(service: str) -> dict[str, str]:
    """Volume or path, and where a service sees it."""
    return dict(mount.split(":")[:2] for mount in SERVICES[service]["volumes"])


@pytest.mark.parametrize("name", list(SERVICES))
def test_s10_a_service_keeps_every_rule(name: str) -> None:
    assert broken(SERVICES[name]) == set()


@pytest.mark.parametrize("rule", list(RULES))
def test_a_planted_violation_is_found(rule: str) -> None:
    assert broken({**SERVICES["gateway"], **PLANTED[rule]}) == {rule}


def test_s10_the_gateway_alone_is_published() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:8080:{SETTINGS.gateway.port}"]


def test_only_the_gateways_network_has_a_way_out() -> None:
    open_ = {name for name, network in COMPOSE["networks"].items() if not network.get("internal")}

    assert open_ == {"published"}
    assert [n for n, s in SERVICES.items() if open_ & set(s.get("networks", []))] == ["gateway"]


@pytest.mark.parametrize(
    ("name", "needs_s"), [("gateway", gateway._DRAIN_S), ("dispatcher", WorkerConfig().grace_s)]
)
def test_who_drains_has_the_time_for_it(name: str, needs_s: float) -> None:
    assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > needs_s


def test_s10_the_executor_sees_its_own_key_alone_and_no_storage() -> None:
    assert set(mounts("executor")) == {"./deploy/preceptor.toml", "keys-executor"}
    assert SERVICES["executor"]["networks"] == ["attempts"]
    reached = {n for n, s in SERVICES.items() if "attempts" in s.get("networks", [])}
    assert reached == {"gateway", "dispatcher", "executor"}


@pytest.mark.parametrize(("role", "name", "service"), list(SETTINGS.services()))
def test_a_service_of_the_settings_is_served_where_they_say(role, name, service) -> None:
    url = urlsplit(service.url)
    served = SERVICES[name]

    assert url.hostname == name
    assert served["command"] == ["deploy", "serve", name]
    assert served["healthcheck"]["test"][-1] == str(url.port)


def test_every_secret_lies_in_a_volume_that_the_first_step_fills() -> None:
    files = [*key_files(SETTINGS), *password_files(SETTINGS)]
    filled = {Path(place).relative_to("/srv/preceptor") for place in mounts("keys").values()}

    assert all(file.parent in filled for file in files)


@pytest.mark.parametrize("name", [n for n in SERVICES if n != "keys"])
def test_keys_are_mounted_to_read_only(name: str) -> None:
    volumes = SERVICES[name].get("volumes", [])

    assert all(v.endswith(":ro") for v in volumes if v.startswith("keys-"))


def test_an_expert_of_ones_own_keeps_every_rule_too(tmp_path: Path) -> None:
    write_expert("wise-owl", tmp_path / "wise-owl", 8101)

    service = yaml.safe_load((tmp_path / "wise-owl" / "compose.yml").read_text())["services"][
        "wise-owl"
    ]
    assert broken(service) == set()
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    volume, place, mode = service["volumes"][0].split(":")
    assert volume in COMPOSE["volumes"]
    assert mode == "ro"
    assert f"{place}/wise-owl.key" in (tmp_path / "wise-owl" / "Dockerfile").read_text()


def test_what_runs_once_is_waited_for_as_such() -> None:
    for service in SERVICES.values():
        for other, wish in service.get("depends_on", {}).items():
            once = runs_once(SERVICES[other])
            wanted = "service_completed_successfully" if once else "service_healthy"
            assert wish["condition"] == wanted


def test_the_image_has_a_folder_for_every_volume_of_keys() -> None:
    # A volume takes its owner from the folder of the image; without one it belongs to root.
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    made = set(re.findall(r"preceptor/keys/([\w-]+)", dockerfile))

    assert {f"keys-{name}" for name in made} == {
        volume for volume in COMPOSE["volumes"] if volume.startswith("keys-")
    }


def test_no_key_of_compose_is_newer_than_the_oldest_version_that_is_supported() -> None:
    text = (ROOT / "docker-compose.yml").read_text()

    assert "name" not in COMPOSE
    assert "include" not in COMPOSE
    assert "start_interval" not in text
