"""Weights go from the trainer's memory to a server's, and nowhere else."""

from __future__ import annotations

import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import httpx
import pytest
import torch
from safetensors.torch import load_file

from preceptor_clients.vllm_expert import fetched_weights
from preceptor_clients.vllm_expert.fetched_weights import drop, fetch, fetched
from preceptor_trainer.sampling.held_weights import held, own_address

NAME = "testheldweights"
HERE = "127.0.0.1"
TENSORS = {
    "float": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "bfloat": torch.randn(5, 4).bfloat16(),
    "turned": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "half": torch.ones(3, dtype=torch.float16),
}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    drop(NAME)
    yield
    drop(NAME)


def test_what_is_fetched_is_a_file_of_the_same_tensors() -> None:
    with held(TENSORS, HERE) as url:
        fetch(url, NAME)

    found = load_file(fetched(NAME) / "model.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name

    drop(NAME)
    with pytest.raises(FileNotFoundError, match=NAME):
        fetched(NAME)


def test_weights_are_held_for_who_knows_the_address_while_the_block_lasts() -> None:
    with held(TENSORS, HERE) as url:
        port = httpx.URL(url).port
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 404
        with pytest.raises(urllib.error.HTTPError):
            fetch(url[:-1], NAME)

    with pytest.raises(OSError, match="refused"):
        fetch(url, NAME)


def test_a_transfer_that_breaks_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def breaks() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 40)

        Thread(target=breaks, daemon=True).start()
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match="only 40 of 100 bytes"):
            fetch(f"http://127.0.0.1:{port}/any", NAME)

    with pytest.raises(FileNotFoundError):
        fetched(NAME)


@pytest.mark.parametrize(("room", "where"), [(2 << 30, "memory"), (1 << 30, "disk")])
def test_a_file_that_memory_has_no_room_for_goes_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, where: str
) -> None:
    for folder in ("memory", "disk"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(fetched_weights, "_MEMORY", tmp_path / "memory")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "disk"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room))

    with held(TENSORS, HERE) as url:
        fetch(url, NAME)

    assert fetched(NAME).parent == tmp_path / where


def test_the_environments_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    with held(TENSORS, HERE) as url:
        fetch(url, NAME)

    assert fetched(NAME).is_dir()


def test_who_still_reads_when_the_block_ends_is_cut_off() -> None:
    size = 64 << 20  # more than the sockets' buffers hold
    with ExitStack() as reading:
        with held({"large": torch.zeros(size // 4)}, HERE) as url:
            reply = reading.enter_context(urllib.request.urlopen(url, timeout=60))
            assert len(reply.read(1000)) == 1000
        rest = sum(map(len, iter(lambda: reply.read(1 << 20), b"")))

    assert rest < size


def test_a_name_leads_out_of_no_folder(tmp_path: Path) -> None:
    for name in ("x/../../home", "..", ""):
        with pytest.raises(ValueError, match="letters and digits"):
            drop(name)


def test_two_workers_that_fetch_at_once_leave_one_file_and_a_later_fetch_drops_it() -> None:
    with held(TENSORS, HERE) as url, ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: fetch(url, NAME), range(2)))
        assert load_file(fetched(NAME) / "model.safetensors").keys() == TENSORS.keys()
        assert not [*Path("/dev/shm").glob("preceptor-fetching-*")]

        fetch(url, "testheldweights2")  # its trainer was killed before it could drop the first

    with pytest.raises(FileNotFoundError):
        fetched(NAME)
    drop("testheldweights2")


def test_the_address_is_that_of_connections_to_the_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert own_address(f"http://127.0.0.1:{port}") == "127.0.0.1"
        assert own_address(f"http://localhost:{port}/v1") == "127.0.0.1"
    with pytest.raises(OSError, match="refused"):
        own_address(f"http://127.0.0.1:{port}")
