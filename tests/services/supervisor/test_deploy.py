"""`preceptor deploy`: keys and tables are made once, services are found by name."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preceptor_services.kit.settings import load_settings
from preceptor_services.supervisor import deploy

SETTINGS = Path(__file__).parents[3] / "deploy" / "preceptor.toml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return Path(shutil.copy(SETTINGS, tmp_path))


def invoke(*words: str | Path):
    return CliRunner().invoke(deploy.app, [str(word) for word in words])


def modes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): stat.S_IMODE(p.stat().st_mode) for p in files}


def test_every_key_is_its_owners_alone_and_passwords_are_the_groups_too(config: Path) -> None:
    assert invoke("keys", "--config", config).exit_code == 0

    found = modes(config.parent / "keys")
    shared = {"broker/password", "database/password"}
    assert {name for name, mode in found.items() if mode == 0o640} == shared
    assert {mode for name, mode in found.items() if name not in shared} == {0o600}
    assert {"gateway/hash.key", "people/gateway.key", "executor/executor.key"} <= set(found)
    assert "reader/sign-in.yml" in found


def test_keys_that_are_there_stay(config: Path) -> None:
    invoke("keys", "--config", config)
    files = sorted((config.parent / "keys").rglob("*.key"))
    before = [file.read_text() for file in files]

    assert invoke("keys", "--config", config).exit_code == 0

    assert [file.read_text() for file in files] == before
    assert len(set(before)) == len(before)


def test_tables_are_made_and_made_again_without_harm(tmp_path: Path) -> None:
    config = tmp_path / "preceptor.toml"
    config.write_text("[gateway]\ndatabase = 'sqlite+aiosqlite:///here.db'")

    for _ in range(2):
        assert invoke("migrate", "--config", config).exit_code == 0

    with sqlite3.connect(tmp_path / "here.db") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert {"tickets", "alembic_version"} <= tables


def test_a_service_is_found_with_its_class_and_key(config: Path) -> None:
    service = deploy.service_named(load_settings(config, env={}), "executor")

    assert service.use == "preceptor_services.feedback.executor:Executor"
    assert service.key_file == config.parent / "keys" / "executor" / "executor.key"


def test_a_service_that_is_not_there_is_refused_with_those_that_are(config: Path) -> None:
    refused = invoke("serve", "teacher", "--config", config)

    assert refused.exit_code == 2
    assert "teacher: the settings have no such service, only self-teacher, people" in refused.output
