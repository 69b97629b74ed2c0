"""JSON calls to a third-party API.

Requests are retried on rate limits and restarts (429, 503, no connection), with `Retry-After`,
until the deadline. A refusal by the API is a fault of this service or its deployment, never of the
caller: its 4xx become a 502 with its message, so that a caller is not told to change a key of the
API.
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
from preceptor_clients.http.connection import MAX_REPLY_BYTES, HttpClient, RetryPolicy
from preceptor_clients.kit.threads import on_bytes

_JSON: Final = "application/json"
_RETRY: Final = RetryPolicy(attempts=3)


class Refused(ServiceFailed):
    """The server answered with a 4xx status."""

    code, title = "server-refused", "The server behind the service refused the request"


class Upstream:
    """One server, called over HTTP; connections are opened by the first call."""

    def __init__(
        self,
        url: str,
        key_file: str | None,
        *,
        max_concurrency: int,
        timeout_s: float,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._key = None if key_file is None else _key(Path(key_file))
        self._max_concurrency = max_concurrency
        self._timeout_s = timeout_s
        self._max_reply_bytes = max_reply_bytes
        self._client: HttpClient | None = None

    async def get(self, path: str, *, timeout_s: float | None = None) -> Any:
        """The JSON reply of `GET path`."""
        return await self._call("GET", path, None, timeout_s)

    async def post(self, path: str, body: dict[str, Any], *, timeout_s: float | None = None) -> Any:
        """The JSON reply of `POST path`.

        Raises:
            Refused: the server answered 4xx; the error has its message.
            ServiceUnavailable: it stayed busy or unreachable.
            DeadlineExceeded: the timeout passed.
            ServiceFailed: it failed, or its reply is not JSON.
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
                self._url,
                self._key,
                max_concurrency=self._max_concurrency,
                retry=_RETRY,
                max_reply_bytes=self._max_reply_bytes,
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
        except (ValueError, RecursionError):  # the latter by brackets in brackets
            raise ServiceFailed(f"the reply to {method} {self._url}{path} is not JSON") from None


def member(value: Any, *path: str | int) -> Any:
    """The value at `path` inside a JSON value; None where a part of the path is missing."""
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
        return Refused(f"the server refused the request: {error.detail}")
    return ServiceFailed(f"the server failed: {error.detail}")


def _key(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"key_file: {str(path)!r} is not a file in {path.resolve().parent}; write the key of "
            "the server behind this service into it"
        )
    key = path.read_text(encoding="utf-8-sig").strip()
    if not key:
        raise ValueError(f"key_file: {str(path)!r} is empty")
    return key
