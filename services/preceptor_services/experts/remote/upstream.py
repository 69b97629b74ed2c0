"""JSON calls to an API that is not ours.

Rate limits and restarts (429, 503, no connection) are waited for, `Retry-After` respected, within
the deadline. What the API refuses is this expert's fault or its deployment's, never the caller's:
its 4xx become a 502 with its own words, so that nobody is told to mend a key that is not his.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    PreceptorError,
    QueueFull,
    ServiceFailed,
    ServiceUnavailable,
)
from preceptor_clients.http.connection import HttpClient, RetryPolicy
from preceptor_clients.kit.threads import on_bytes

_JSON: Final = "application/json"
_RETRY: Final = RetryPolicy(attempts=3)


class Refused(ServiceFailed):
    """The server understood the request and will not do it."""

    code, title = "server-refused", "The server behind the expert refused the request"


class Upstream:
    """One server, called over HTTP; connections open with the first call."""

    def __init__(
        self, url: str, key_file: str | None, *, max_concurrency: int, timeout_s: float
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._key = None if key_file is None else _key(Path(key_file))
        self._max_concurrency = max_concurrency
        self._timeout_s = timeout_s
        self._client: HttpClient | None = None

    async def get(self, path: str, *, timeout_s: float | None = None) -> Any:
        """What `GET path` gives."""
        return await self._call("GET", path, None, timeout_s)

    async def post(self, path: str, body: dict[str, Any], *, timeout_s: float | None = None) -> Any:
        """What `POST path` gives.

        Raises:
            Refused: the server said 4xx; its words are in the error.
            ServiceUnavailable: it stayed busy or away.
            DeadlineExceeded: it took longer than allowed.
            ServiceFailed: it failed, or answered with something else than JSON.
        """
        return await self._call("POST", path, json.dumps(body).encode(), timeout_s)

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _call(
        self, method: str, path: str, content: bytes | None, timeout_s: float | None
    ) -> Any:
        if self._client is None:
            self._client = HttpClient(
                self._url, self._key, max_concurrency=self._max_concurrency, retry=_RETRY
            )
        allowed_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        try:
            received = await self._client.exchange(
                method,
                path,
                content=content,
                content_type=None if content is None else _JSON,
                timeout_s=allowed_s,
            )
        except PreceptorError as error:
            raise _ours(error) from error
        try:
            return await on_bytes(len(received.body), json.loads, received.body)
        except ValueError:
            raise ServiceFailed(f"{method} {self._url}{path} answered with no JSON") from None


def member(value: Any, *path: str | int) -> Any:
    """What stands at `path` inside a JSON value; None where something on the way is missing."""
    for step in path:
        if isinstance(step, int):
            items = cast("list[Any]", value) if isinstance(value, list) else []
            value = items[step] if step < len(items) else None
        else:
            fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
            value = fields.get(step)
    return value


def _ours(error: PreceptorError) -> PreceptorError:
    if isinstance(error, (DeadlineExceeded, ServiceUnavailable)):
        return error
    if isinstance(error, QueueFull):
        return ServiceUnavailable(error.detail, retry_after_s=error.retry_after_s)
    if 400 <= error.status < 500:
        return Refused(f"the server refused: {error.detail}")
    return ServiceFailed(f"the server failed: {error.detail}")


def _key(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"key_file: {str(path)!r} is no file in {path.resolve().parent}; put the key that the "
            "server behind this expert asks for into it"
        )
    key = path.read_text(encoding="utf-8-sig").strip()
    if not key:
        raise ValueError(f"key_file: {str(path)!r} is empty")
    return key
