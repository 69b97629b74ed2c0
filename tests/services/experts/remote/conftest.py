"""Tokenizers of two kinds, and the foreign server over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_trainer.student.architecture import make_tokenizer

from .foreign import FakeServer, make_word_tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def student_tokenizer(tokenizer_folder: Path) -> StudentTokenizer:
    return StudentTokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def word_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    make_word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def word_tokenizer(word_tokenizer_folder: Path) -> StudentTokenizer:
    return StudentTokenizer(word_tokenizer_folder)


@pytest.fixture
async def serve(
    student_tokenizer: StudentTokenizer,
) -> AsyncIterator[Callable[..., Any]]:
    """Starts a `FakeServer` on loopback."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(kind: type[FakeServer] = FakeServer, **fields: Any) -> FakeServer:
        fake = kind(**{"tokenizer": student_tokenizer} | fields)
        config = uvicorn.Config(fake.app(), port=0, log_level="error", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        running.append((server, asyncio.create_task(server.serve())))
        while not server.started:
            await asyncio.sleep(0.01)
        fake.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        return fake

    yield start
    for server, task in running:
        server.should_exit = True
        await task
