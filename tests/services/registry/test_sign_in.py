"""The file by which Prometheus lets in who has a key: written once, and anew with a new secret."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import bcrypt
import pytest
import yaml

from preceptor_clients.contract.deployment import DeployedKey
from preceptor_services.registry.sign_in import write_sign_in

OLD, NEW = "old-" + "k" * 40, "new-" + "k" * 40


def key_in(folder: Path, token: str, *, sign_in: bool = True) -> DeployedKey:
    file = folder / "reader.key"
    file.write_text(token + "\n")
    return DeployedKey(
        file=file, scopes=("reader",), sign_in_file=folder / "sign-in.yml" if sign_in else None
    )


def users(file: Path) -> dict[str, str]:
    return yaml.safe_load(file.read_text())["basic_auth_users"]


def test_the_key_opens_and_no_other_password_does(tmp_path: Path) -> None:
    file = write_sign_in("reader", key_in(tmp_path, NEW))

    assert file is not None
    [(name, hashed)] = users(file).items()
    assert name == "reader"
    assert bcrypt.checkpw(NEW.encode(), hashed.encode())
    assert not bcrypt.checkpw(NEW[:-1].encode(), hashed.encode())
    assert NEW not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_stays_while_the_secret_does(tmp_path: Path) -> None:
    key = key_in(tmp_path, NEW)
    file = write_sign_in("reader", key)
    assert file is not None
    before = file.read_text()

    write_sign_in("reader", key)

    assert file.read_text() == before


@pytest.mark.parametrize(
    "found", ["", "basic_auth_users:\n", "basic_auth_users:\n  reader: no-hash\n", "{", "a: b: c"]
)
def test_a_file_that_opens_nothing_is_replaced(tmp_path: Path, found: str) -> None:
    (tmp_path / "sign-in.yml").write_text(found)

    file = write_sign_in("reader", key_in(tmp_path, NEW))

    assert file is not None
    assert bcrypt.checkpw(NEW.encode(), users(file)["reader"].encode())


def test_a_new_secret_closes_the_old_one_out(tmp_path: Path) -> None:
    write_sign_in("reader", key_in(tmp_path, OLD))
    file = write_sign_in("reader", key_in(tmp_path, NEW))

    assert file is not None
    hashed = users(file)["reader"].encode()
    assert bcrypt.checkpw(NEW.encode(), hashed)
    assert not bcrypt.checkpw(OLD.encode(), hashed)


def test_a_key_that_nobody_signs_in_with_gets_no_file(tmp_path: Path) -> None:
    assert write_sign_in("reader", key_in(tmp_path, NEW, sign_in=False)) is None
    assert [file.name for file in tmp_path.iterdir()] == ["reader.key"]


def test_a_key_too_long_for_a_password_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 73 bytes, and one that people sign in with has 72"):
        write_sign_in("reader", key_in(tmp_path, "x" * 73))


def test_a_key_that_ends_is_not_signed_in_with(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sign_in_file: not together with expires"):
        DeployedKey(
            file=tmp_path / "reader.key",
            scopes=("reader",),
            sign_in_file=tmp_path / "sign-in.yml",
            expires=datetime(2027, 1, 1, tzinfo=UTC),
        )
