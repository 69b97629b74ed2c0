"""What a run needs of a model server that is not ours: the calls of one protocol.

Each dialect (`vllm_server.py`, `sglang_server.py`) writes one server's requests and reads its
replies. `server.py` has what they share: seeds, order, and the checks of each response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeAlias
from urllib.parse import unquote, urlsplit

from preceptor_clients.contract.errors import PreceptorError, ServiceFailed
from preceptor_clients.contract.generation import Generated
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.http.connection import HttpClient, Transport
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Published

WeightPath: TypeAlias = Literal["files", "sent", "broadcast"]
"""How a server gets a version: it reads the files, fetches what the trainer holds at an address, or
receives what the trainer broadcasts."""
PROBE: Final = "Two and two are 4; nobody knows why."
"""Text whose ids the server must give as the student's tokenizer does."""


class UnfitServer(ServiceFailed):
    """A server that cannot be the sampler of this run as it was started."""

    code, title = "unfit-server", "The server cannot be the sampler of this run"


@dataclass(frozen=True, kw_only=True)
class Student:
    """What a dialect has to know of the student."""

    vocab_size: int
    num_rows: int
    """Rows of its output embedding; those from `vocab_size` on are no tokens."""
    end_ids: frozenset[int]
    is_tied: bool
    """Whether the output embedding is the input's."""
    probe_ids: tuple[int, ...]
    """Ids of `PROBE`."""

    def padding_bias(self) -> dict[str, float]:
        """A bias that keeps rows from being drawn that are no tokens."""
        return {str(row): -100.0 for row in range(self.vocab_size, self.num_rows)}


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A request for responses to one prompt."""

    ids: Sequence[int]
    count: int
    params: SamplingParams
    seed: int
    version: str


class Dialect(Protocol):
    """The calls of one kind of server."""

    async def start(self, calls: Calls) -> None:
        """Finds out what the server is.

        Raises:
            UnfitServer: it cannot be the run's sampler; the message says how to start it.
        """
        ...

    async def takes_adapters(self, calls: Calls) -> bool:
        """Whether it can load adapters."""
        ...

    async def load(self, calls: Calls, published: Published, *, own: bool) -> None:
        """Loads a version.

        Args:
            calls: To the server.
            published: The version.
            own: Whether the server's own weights may be taken for it: those that adapters are of.

        Raises:
            ValueError: the server is to read the version's files, and it has none.
            UnfitServer: the server takes no weights; the message says how to start it.
        """
        ...

    async def check(self, calls: Calls, params: SamplingParams, version: str) -> None:
        """Checks before tokens are drawn that the server has the version and gives log-probs.

        Raises:
            UnfitServer: its log-probs would not be those of the drawn distribution.
            ServiceFailed: it has other weights.
        """
        ...

    async def draw(self, calls: Calls, draw: Draw) -> list[Generated]:
        """Responses with their log-probs, from the loaded version.

        Raises:
            ServiceFailed: the reply is not as it should be, or of other weights.
        """
        ...

    async def sleep(self, calls: Calls) -> None:
        """Has the server give up its memory.

        Raises:
            UnfitServer: it was started so that it cannot.
        """
        ...

    async def wake(self, calls: Calls) -> None:
        """Has the server take its memory again.

        Raises:
            UnfitServer: it has no such route.
            ServiceFailed: it is still asleep.
        """
        ...


class Calls:
    """JSON calls to one server; an async context manager."""

    def __init__(
        self, url: str, key: str | None, timeout_s: float, transport: Transport | None = None
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._http = HttpClient(self.url, key, max_concurrency=256, transport=transport)
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str) -> Any:
        """The JSON of a `GET`.

        Raises:
            PreceptorError: of the reply's status, with the server's words.
        """
        return await self._call("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a `POST`; None where the reply has none.

        Raises:
            PreceptorError: of the reply's status, with the server's words.
        """
        return await self._call("POST", path, {} if body is None else body)

    async def finds(self, path: str) -> Any:
        """The JSON of a `GET`; None where the server has no such route."""
        try:
            return await self.get(path)
        except PreceptorError as error:
            if error.status == 404:
                return None
            raise

    async def drops(self, path: str, body: Mapping[str, Any]) -> None:
        """A `POST` that takes something away; the server may not have it any more."""
        try:
            await self.post(path, body)
        except PreceptorError as error:
            if not error.blames_request:
                raise

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        received = await self._http.exchange(
            method,
            path,
            content=content,
            content_type=None if content is None else "application/json",
            timeout_s=self._timeout_s,
        )
        try:
            return json.loads(received.body)
        except ValueError:
            return None


def manifest_of(published: Published) -> WeightManifest:
    """The manifest of a version's files.

    Raises:
        ValueError: it was not published as files.
    """
    if published.manifest is None:
        raise ValueError(f"weights {published.version} were not published for a server")
    return published.manifest


def folder_of(manifest: WeightManifest) -> Path:
    """A version's folder, which a server on the same file system reads."""
    return Path(unquote(urlsplit(manifest.uri).path))


def malformed(calls: Calls, path: str, why: object) -> ServiceFailed:
    """The error for a reply that is not as the protocol says."""
    return ServiceFailed(f"{calls.url}{path} sent a reply that cannot be read: {why}")


def check_untouched(calls: Calls, held: str | None) -> None:
    """Checks that a server has the weights that it was started with: adapters are of those.

    Raises:
        UnfitServer: a run has loaded a version of its own.
    """
    if held is not None and "/" in held:
        raise UnfitServer(
            f"the server at {calls.url} holds the weights {held} of another run, and this run's "
            "adapters are of the model that it was started with; start it again"
        )


async def check_tokenizer(calls: Calls, student: Student, model: str | None = None) -> None:
    """Compares the ids of a text.

    Raises:
        UnfitServer: the server has another tokenizer.
    """
    body = {"prompt": PROBE, "add_special_tokens": False}
    try:
        reply = await calls.post("/tokenize", body if model is None else body | {"model": model})
    except PreceptorError as error:
        if error.status == 404:  # it serves ids alone
            return
        raise
    theirs = None if reply is None else reply.get("tokens")
    if theirs != list(student.probe_ids):
        raise UnfitServer(
            f"the server at {calls.url} has another tokenizer than the student: {PROBE!r} has ids "
            f"{str(theirs)[:60]} there and {list(student.probe_ids)[:8]}... here; start it with "
            "the folder of `model.path`"
        )
