"""The hardening rules of docker-compose.yml: what every service must have, and must not have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
Service = Mapping[str, Any]
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")
_SECRET = re.compile(r"password|secret|token|key", re.IGNORECASE)


def load_compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    """The file as Compose reads it where no variable is set."""
    text = (ROOT / name).read_text()
    return yaml.safe_load(_VARIABLE.sub(r"\1", text))


def runs_once(service: Service) -> bool:
    return service.get("restart") == "no"


def _user_is_not_root(service: Service) -> bool:
    return service.get("user", "").partition(":")[0] not in ("", "0", "root")


def _has_health_check(service: Service) -> bool:
    check = service.get("healthcheck", {})
    return bool(check.get("test")) or (runs_once(service) and check.get("disable") is True)


def _keeps_secrets_in_files(service: Service) -> bool:
    environment = service.get("environment", {})
    return isinstance(environment, dict) and all(
        name.endswith("_FILE") and str(value).startswith("/")
        for name, value in environment.items()
        if _SECRET.search(name)
    )


def _publishes_on_loopback(service: Service) -> bool:
    return all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


def _names_a_version(service: Service) -> bool:
    _, _, tag = service["image"].rpartition("/")[2].partition(":")
    return tag not in ("", "latest")


def _shares_nothing_with_the_host(service: Service) -> bool:
    shared = {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & set(service)
    return not shared and service.get("network_mode", "none") == "none"


def _mounts_nothing_of_the_host_to_write(service: Service) -> bool:
    mounts = [str(mount) for mount in service.get("volumes", [])]
    own = [mount for mount in mounts if mount.startswith((".", "/", "~"))]
    return not any("docker.sock" in m for m in mounts) and all(m.endswith(":ro") for m in own)


RULES: dict[str, Callable[[Service], bool]] = {
    "read-only root": lambda service: service.get("read_only") is True,
    "no capabilities": lambda service: service.get("cap_drop") == ["ALL"],
    "no new privileges": lambda s: s.get("security_opt") == ["no-new-privileges:true"],
    "not root": _user_is_not_root,
    "health check": _has_health_check,
    "secrets in files": _keeps_secrets_in_files,
    "loopback": _publishes_on_loopback,
    "a version": _names_a_version,
    "nothing of the host": _shares_nothing_with_the_host,
    "no mount to write": _mounts_nothing_of_the_host_to_write,
    "bounded log": lambda s: "max-size" in s.get("logging", {}).get("options", {}),
    "an end to restarts": lambda s: s.get("restart") in ("no", "unless-stopped"),
}


def broken(service: Service) -> set[str]:
    """Names of the rules that a service breaks."""
    return {name for name, holds in RULES.items() if not holds(service)}
