"""The deployment that the quickstart writes, as `preceptor up` starts it."""

from __future__ import annotations

from pathlib import Path

from preceptor_services.kit.settings import load_settings
from preceptor_services.supervisor.plan import make_plan
from preceptor_trainer.deployment.local import write_settings


def test_the_quickstarts_deployment_has_an_admins_key_and_a_port_that_stays(tmp_path: Path) -> None:
    config = write_settings(tmp_path, needs_feedback=True)

    first = make_plan(load_settings(config, env={}), tmp_path).settings
    second = make_plan(load_settings(config, env={}), tmp_path).settings

    assert load_settings(config, env={}).key_for("admin") == first.key_for("admin")
    assert len(first.key_for("admin").read_text().strip()) >= 32
    assert second.gateway.url == first.gateway.url
