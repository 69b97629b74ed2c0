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
from preceptor_services.feedback.judge.source import Judge
from preceptor_services.gateway import __main__ as gateway
from preceptor_services.supervisor.deploy import key_files, password_files

COMPOSE = load_compose()
SERVICES = COMPOSE["services"]
GPU = load_compose("deploy/compose.gpu.yml")["services"]
TOML = (ROOT / "deploy" / "preceptor.toml").read_text()
WITH_JUDGE = parse_deployment(
    TOML[: TOML.index("# [sources.judge]")]
    + "\n".join(
        line.removeprefix("#").removeprefix(" ")
        for line in TOML[TOML.index("# [sources.judge]") :].splitlines()
    )
)
"""With the block of the profile `judge`, as a user writes it."""
SETTINGS = parse_deployment(TOML)

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


def test_s10_the_gateway_and_what_watches_it_are_published() -> None:
    published = {name: s["ports"] for name, s in SERVICES.items() if "ports" in s}

    assert published == {
        "gateway": [f"127.0.0.1:8080:{SETTINGS.gateway.port}"],
        # With the profile observability only:
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert {n for n in published if SERVICES[n].get("profiles") == ["observability"]} == {
        "prometheus",
        "grafana",
    }


def test_only_what_is_published_has_a_way_out() -> None:
    open_ = {name for name, network in COMPOSE["networks"].items() if not network.get("internal")}

    assert open_ == {"published", "outside"}
    reached = {n for n, s in SERVICES.items() if open_ & set(s.get("networks", []))}
    assert reached == {"gateway", "prometheus", "grafana", "judge"}


def test_the_judge_runs_in_its_profile_and_reaches_no_storage_and_no_expert() -> None:
    assert SERVICES["judge"]["profiles"] == ["judge"]
    assert set(mounts("judge")) == {"./deploy/preceptor.toml", "keys-judge"}
    reached = {n for n, s in SERVICES.items() if "judges" in s.get("networks", [])}
    assert reached == {"gateway", "dispatcher", "judge"}
    assert [n for n, s in SERVICES.items() if "outside" in s.get("networks", [])] == ["judge"]


def test_the_settings_of_the_judge_are_a_comment_that_works() -> None:
    assert "judge" not in SETTINGS.sources
    service = WITH_JUDGE.sources["judge"]

    assert Judge(**{**service.options, "key_file": None}).info().name == "judge"
    assert service.key_file.parent.name == "judge"


def test_who_only_watches_reaches_the_gateway_and_nothing_behind_it() -> None:
    for name in ("prometheus", "grafana"):
        assert set(SERVICES[name]["networks"]) == {"published", "metrics"}
    reached = {n for n, s in SERVICES.items() if "metrics" in s.get("networks", [])}
    assert reached == {"gateway", "prometheus", "grafana"}


def test_s10_who_signs_in_to_watch_has_the_key_of_readers() -> None:
    [mount] = [p for v, p in mounts("prometheus").items() if v == "keys-reader"]
    sign_in = SETTINGS.keys["reader"].sign_in_file

    assert sign_in is not None
    assert sign_in.parent == SETTINGS.keys["reader"].file.parent
    assert f"--web.config.file={mount}/{sign_in.name}" in SERVICES["prometheus"]["command"]
    grafana = SERVICES["grafana"]["environment"]
    assert grafana["GF_SECURITY_ADMIN_USER"] == "reader"
    assert grafana["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"{mount}/reader.key"


@pytest.mark.parametrize("name", list(GPU))
def test_s10_a_service_on_a_gpu_keeps_every_rule(name: str) -> None:
    assert broken({**SERVICES.get(name, {}), **GPU[name]}) == set()


@pytest.mark.parametrize("name", list(GPU))
def test_a_service_on_a_gpu_reserves_one_that_a_variable_names(name: str) -> None:
    [device] = GPU[name]["deploy"]["resources"]["reservations"]["devices"]

    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}


def test_the_gpu_override_adds_no_network_and_no_volume() -> None:
    assert all(set(s.get("networks", [])) <= set(COMPOSE["networks"]) for s in GPU.values())
    named = {v.partition(":")[0] for s in GPU.values() for v in s.get("volumes", [])}
    assert {v for v in named if not v.startswith(".")} <= set(COMPOSE["volumes"])


def test_every_process_of_ours_logs_in_one_format() -> None:
    ours = [s for s in SERVICES.values() if s["image"].startswith("preceptor-")]

    assert len(ours) > 5
    assert all(s["environment"]["PRECEPTOR_LOG_FORMAT"] == "json" for s in ours)


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


@pytest.mark.parametrize(("role", "name", "service"), list(WITH_JUDGE.services()))
def test_a_service_of_the_settings_is_served_where_they_say(role, name, service) -> None:
    url = urlsplit(service.url)
    served = SERVICES[name]

    assert url.hostname == name
    assert served["command"] == ["deploy", "serve", name]
    assert served["healthcheck"]["test"][-1] == str(url.port)


def test_every_secret_lies_in_a_volume_that_the_first_step_fills() -> None:
    files = [*key_files(WITH_JUDGE), *password_files(WITH_JUDGE)]
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
