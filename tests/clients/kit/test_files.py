"""What is written stands whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from preceptor_clients.kit.files import OWNER_ONLY, make_key_file, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_another_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"

    write_whole(path, b"old and long")
    write_whole(path, "né")

    assert path.read_bytes() == "né".encode()
    assert names(path.parent) == ["a.json"]


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_whole(tmp_path / "a", "old")

    def fails(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new")

    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_permissions_are_those_asked_for_less_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        plain = write_whole(tmp_path / "plain", "x")
        own = write_whole(tmp_path / "own", "x", mode=OWNER_ONLY)
    finally:
        os.umask(before)

    assert stat.S_IMODE(plain.stat().st_mode) == 0o640
    assert stat.S_IMODE(own.stat().st_mode) == 0o600


@pytest.mark.parametrize("synced", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path: Path, synced: bool) -> None:
    for number in ("1", "2"):
        with whole_folder(tmp_path / "f", synced=synced) as partial:
            (partial / number).write_text(number)

    assert names(tmp_path) == ["f"]
    assert names(tmp_path / "f") == ["2"]


def write_half(folder: Path) -> None:
    (folder / "half").write_text("")
    raise KeyError


def test_an_interrupted_folder_leaves_the_old_one_and_is_begun_anew(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "f") as partial:
        (partial / "old").write_text("")
    with pytest.raises(KeyError), whole_folder(tmp_path / "f") as partial:
        write_half(partial)

    assert names(tmp_path / "f") == ["old"]
    with whole_folder(tmp_path / "f") as partial:
        assert names(partial) == []


def test_a_key_file_is_its_owners_alone_and_stays_once_made(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a.key"

    make_key_file(path)
    first = path.read_text()
    make_key_file(path)

    assert path.read_text() == first
    assert len(first.strip()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == OWNER_ONLY
