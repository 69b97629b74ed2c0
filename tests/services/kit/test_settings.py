"""The settings file: checked as a whole, paths relative to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from preceptor_services.kit.settings import (
    broker_url,
    database_url,
    find_settings,
    load_settings,
    read_secret,
)

GOOD = """
[gateway]
port = 9000
weights_roots = ["w", "/absolute"]
[keys.trainer]
file = "keys/t.key"
scopes = ["trainer"]
[experts.teacher]
url = "http://127.0.0.1:1"
key_file = "keys/e.key"
use = "a.module:Class"
[experts.teacher.options]
depth = 3
"""


def _load(folder: Path, text: str, **env: str):
    file = folder / "preceptor.toml"
    file.write_text(text)
    return load_settings(file, env=env)


def test_a_run_below_its_deployment_has_the_settings_of_the_nearest_one(tmp_path: Path) -> None:
    run = tmp_path / "outer" / "inner" / "weights" / "run"
    run.mkdir(parents=True)
    outer, inner = tmp_path / "outer" / "preceptor.toml", tmp_path / "outer/inner/preceptor.toml"
    for file in (outer, inner):
        file.write_text("")

    assert find_settings(run) == inner
    inner.with_name("resolved.toml").write_text("")
    assert find_settings(run) == inner.with_name("resolved.toml")


def test_a_folder_without_settings_above_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"run-dir: neither {tmp_path} nor a folder"):
        find_settings(tmp_path)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = _load(tmp_path, GOOD)

    assert settings.gateway.database == f"sqlite+aiosqlite:///{tmp_path}/preceptor.db"
    assert settings.gateway.weights_roots == (tmp_path / "w", Path("/absolute"))
    assert settings.key_for("trainer") == tmp_path / "keys/t.key"
    assert settings.experts["teacher"].key_file == tmp_path / "keys/e.key"
    assert settings.experts["teacher"].options == {"depth": 3}


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    settings = _load(
        tmp_path, GOOD, PRECEPTOR_DATABASE="postgresql+asyncpg://x/y", PRECEPTOR_BROKER="redis://b"
    )

    assert settings.gateway.database == "postgresql+asyncpg://x/y"
    assert settings.gateway.broker == "redis://b"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[gateway]\nprot = 1", "gateway.prot"),
        ("[gateway]\nport = 70000", "gateway.port"),
        ("[keys.x]\nfile = 'k'\nscopes = ['root']", "keys.x.scopes"),
        ("[keys.x]\nfile = 'k'\nscopes = []", "keys.x.scopes"),
        ("[keys.x]\nfile = 'k'\nscopes = ['expert']", "keys.x.service"),
        ("[keys.x]\nfile = 'k'\nscopes = ['reader']\nservice = 'e'", "keys.x.service"),
        ("[experts.'a b']\nurl = 'u'\nkey_file = 'k'", "experts.a b"),
        ("[experts.e]\nurl = 'u'\nkey_file = 'k'\n[sources.e]\nurl = 'u'\nkey_file = 'k'", "e"),
        ("[gateway", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"preceptor\.toml") as refused:
        _load(tmp_path, text)

    assert named in str(refused.value)


WITH_PASSWORDS = """
[gateway]
database = "postgresql+asyncpg://preceptor@db:5432/preceptor"
database_password_file = "db.password"
broker = "redis://broker:6379/0"
broker_password_file = "/absolute/broker.password"
"""


def test_passwords_in_files_become_part_of_the_urls(tmp_path: Path) -> None:
    (tmp_path / "db.password").write_text("p@ss/word:" + 32 * "x" + "\n")
    (tmp_path / "b").write_text(32 * "y")
    text = WITH_PASSWORDS.replace("/absolute/broker.password", str(tmp_path / "b"))

    gateway = _load(tmp_path, text).gateway

    quoted = "p%40ss%2Fword%3A" + 32 * "x"
    assert database_url(gateway) == f"postgresql+asyncpg://preceptor:{quoted}@db:5432/preceptor"
    assert broker_url(gateway) == f"redis://:{32 * 'y'}@broker:6379/0"
    assert gateway.database == "postgresql+asyncpg://preceptor@db:5432/preceptor"


def test_urls_without_password_files_stay_as_they_are(tmp_path: Path) -> None:
    gateway = _load(tmp_path, GOOD).gateway

    assert database_url(gateway) == gateway.database
    assert broker_url(gateway) == gateway.broker


def test_two_passwords_for_one_server_are_refused(tmp_path: Path) -> None:
    text = WITH_PASSWORDS.replace("preceptor@db", "preceptor:one@db")

    with pytest.raises(ValueError, match=r"gateway\.database: the URL contains a password"):
        database_url(_load(tmp_path, text).gateway)


@pytest.mark.parametrize("broker", ["", 'broker = "embedded"'])
def test_an_embedded_broker_has_no_password(tmp_path: Path, broker: str) -> None:
    with pytest.raises(ValueError, match=r"broker_password_file: is set, but the embedded"):
        _load(tmp_path, f"[gateway]\n{broker}\nbroker_password_file = 'b'")


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("short\n")

    with pytest.raises(ValueError, match="at least 32"):
        read_secret(tmp_path / "k")


def test_a_missing_key_file_is_named_with_its_folder_and_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as refused:
        read_secret(tmp_path / "keys" / "e.key")

    assert f"no such file in {tmp_path / 'keys'}" in str(refused.value)
    assert f"preceptor expert key {tmp_path / 'keys' / 'e.key'}" in str(refused.value)
