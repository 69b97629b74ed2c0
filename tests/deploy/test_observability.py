"""Dashboards and alerts ask for metrics that exist, and are what their script writes."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import re
from collections import Counter
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
UPLOT_SCRIPT = "9a6a7d50b066b6c083ddf74930c8e3908fdf5b7d1a660969dd15e0360918006d"
UPLOT_STYLE = "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"
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
    found = (*FOLDER.glob("dashboards/*"), *FOLDER.glob("consoles/*"))
    written = {str(p.relative_to(FOLDER)): p.read_text() for p in found}

    assert written == _script().files()


def test_the_pages_that_prometheus_serves_have_the_same_panels_as_grafana() -> None:
    asked: dict[str, Counter[str]] = {}
    for page in FOLDER.glob("consoles/*.html"):
        [data] = re.findall(r'id="panels">(.*)</script>', page.read_text(), re.DOTALL)
        asked[page.stem] = Counter(
            line["expr"] for panel in json.loads(data) for line in panel["lines"]
        )

    for name, dashboard in DASHBOARDS.items():
        page_name = name.removesuffix(".json").replace("slow-run", "index")
        targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
        assert asked.pop(page_name) == Counter(target["expr"] for target in targets)
    assert asked == {}


def test_prometheus_finds_the_pages_where_compose_puts_them() -> None:
    prometheus = load_compose()["services"]["prometheus"]

    assert "./deploy/observability:/etc/preceptor:ro" in prometheus["volumes"]
    for option, folder in (("templates", "consoles"), ("libraries", "console_libraries")):
        assert f"--web.console.{option}=/etc/preceptor/{folder}" in prometheus["command"]
        assert list((FOLDER / folder).iterdir())


def test_a_page_has_no_more_templates_than_its_library_defines() -> None:
    library = "".join(p.read_text() for p in FOLDER.glob("console_libraries/*.lib"))
    defined = set(re.findall(r'\{\{define "(\w+)"\}\}', library))

    for page in FOLDER.glob("consoles/*.html"):
        actions = set(re.findall(r"\{\{.*?\}\}", page.read_text()))
        assert actions == {f'{{{{template "{name}"}}}}' for name in defined}


def test_the_charts_are_uplot_unchanged() -> None:
    """As `npm pack uplot@1.6.32` has it: a script and a style."""
    library = (FOLDER / "console_libraries" / "uplot.lib").read_text()
    header, _, body = library.partition('{{define "uplot"}}<script>\n')
    script, _, rest = body.partition("\n</script>\n<style>\n")
    style = rest.removesuffix("\n</style>{{end}}\n")

    assert "uPlot 1.6.32" in header
    assert "MIT License" in header
    assert hashlib.sha256(script.encode()).hexdigest() == UPLOT_SCRIPT
    assert hashlib.sha256(style.encode()).hexdigest() == UPLOT_STYLE


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
    assert source["basicAuthUser"] == "reader"
    assert source["secureJsonData"] == {"basicAuthPassword": "$__file{/run/keys/reader.key}"}
    uids = {t["datasource"]["uid"] for d in DASHBOARDS.values() for t in d["panels"]}
    assert uids == {"prometheus"}


def test_every_metric_is_explained_on_the_page_about_observability() -> None:
    page = (ROOT / "docs" / "how-to" / "observability.md").read_text()
    ours = {name for name in FAMILIES if name.startswith("preceptor_")}

    missing = {name for name in ours if f"`{name}" not in page}
    assert missing == set()
    assert {_PART.sub("", n) for n in re.findall(r"`(preceptor_\w+)", page)} <= ours
