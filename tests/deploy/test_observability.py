"""Dashboards and alerts ask for metrics that exist, and are what their script writes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
from types import ModuleType
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from preceptor_services.kit.metrics import Metrics

from .compose_rules import ROOT, load_compose

FOLDER = ROOT / "deploy" / "observability"
DASHBOARDS = {p.name: json.loads(p.read_text()) for p in sorted(FOLDER.glob("dashboards/*.json"))}
EXPRESSIONS = [
    (name, target["expr"])
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel["targets"]
]
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
_NAME = re.compile(r"\b(?:preceptor|process)_\w+")
_PART = re.compile(r"_(?:total|bucket|sum|count)$")


def _families() -> dict[str, set[str]]:
    """Every metric and its labels, as an own registry shows them."""
    metrics = Metrics()
    labels = {
        collector._name: set(collector._labelnames)
        for collector in vars(metrics).values()
        if hasattr(collector, "_labelnames")
    }
    process = text_string_to_metric_families(metrics.render().decode())
    return {family.name: set[str]() for family in process} | labels


FAMILIES = _families()


def _script() -> ModuleType:
    path = str(FOLDER / "make-dashboards")
    loader = importlib.machinery.SourceFileLoader("make_dashboards", path)
    spec = importlib.util.spec_from_loader("make_dashboards", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_dashboards_are_what_their_script_writes() -> None:
    written = {p.name: p.read_text() for p in FOLDER.glob("dashboards/*.json")}

    assert written == _script().dashboards()


@pytest.mark.parametrize(("dashboard", "expression"), EXPRESSIONS)
def test_a_panel_asks_for_a_metric_that_exists(dashboard: str, expression: str) -> None:
    names = {_PART.sub("", name) for name in _NAME.findall(expression)}

    assert names
    assert names <= FAMILIES.keys() | {"process_cpu_seconds"}


@pytest.mark.parametrize(("dashboard", "expression"), EXPRESSIONS)
def test_a_panel_groups_by_labels_that_its_metrics_have(dashboard: str, expression: str) -> None:
    asked = {
        label.strip()
        for group in re.findall(r"by \(([^)]*)\)", expression)
        for label in group.split(",")
    } - {"le"}
    had: set[str] = set()
    for name in _NAME.findall(expression):
        had |= FAMILIES.get(_PART.sub("", name), set())

    assert asked <= had


@pytest.mark.parametrize(("dashboard", "expression"), EXPRESSIONS)
def test_a_panel_selects_by_labels_that_its_metric_has(dashboard: str, expression: str) -> None:
    selected = re.findall(r"\b((?:preceptor|process)_\w+)\{([^}]*)\}", expression)

    for name, matchers in selected:
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - {"le"}
        assert labels <= FAMILIES[_PART.sub("", name)], name


def test_some_panels_select() -> None:
    assert any("{" in expression for _, expression in EXPRESSIONS)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_a_metric_that_exists_and_says_what_it_means(rule: Any) -> None:
    names = {_PART.sub("", name) for name in _NAME.findall(rule["expr"])}

    assert names
    assert names <= FAMILIES.keys()
    assert rule["annotations"]["summary"].endswith(".")


def test_every_panel_of_the_slow_run_says_how_to_read_it() -> None:
    assert all(
        panel["description"].endswith(".") for panel in DASHBOARDS["slow-run.json"]["panels"]
    )


def test_grafana_finds_the_dashboards_and_the_data_where_compose_puts_them() -> None:
    services = load_compose()["services"]
    provider = yaml.safe_load((FOLDER / "grafana/dashboards/preceptor.yml").read_text())
    [source] = yaml.safe_load((FOLDER / "grafana/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    mounted = "/etc/preceptor"

    assert "./deploy/observability:/etc/preceptor:ro" in services["grafana"]["volumes"]
    assert provider["providers"][0]["options"]["path"] == f"{mounted}/dashboards"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (FOLDER / home.removeprefix(f"{mounted}/")).is_file()
    assert (source["uid"], source["url"]) == ("prometheus", "http://prometheus:9090")
    uids = {t["datasource"]["uid"] for d in DASHBOARDS.values() for t in d["panels"]}
    assert uids == {"prometheus"}


def test_every_metric_is_explained_on_the_page_about_observability() -> None:
    page = (ROOT / "docs" / "how-to" / "observability.md").read_text()
    ours = {name for name in FAMILIES if name.startswith("preceptor_")}

    missing = {name for name in ours if f"`{name}" not in page}
    assert missing == set()
    assert {_PART.sub("", n) for n in re.findall(r"`(preceptor_\w+)", page)} <= ours
