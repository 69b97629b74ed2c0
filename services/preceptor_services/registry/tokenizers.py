"""Token ids of texts from the expert's tokenizer: by direct requests, not queued and not stored.

The connections are separate from those of the registry, so that the registry's requests do not wait
behind those of callers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from preceptor_clients.contract.errors import (
    DeadlineExceeded,
    Invalid,
    PreceptorError,
    ServiceFailed,
    ServiceUnavailable,
)
from preceptor_clients.contract.tokenization import TokenizeCall
from preceptor_clients.http.connection import RetryPolicy
from preceptor_clients.http.service import ServiceClient
from preceptor_services.kit.settings import read_secret
from preceptor_services.registry.services import Registry, ServiceEntry

_ANSWER_S: Final = 10.0
_AT_ONCE: Final = 8
"""Concurrent calls of one expert; further calls wait, and their timeout runs meanwhile."""
_MAX_REPLY_BYTES: Final = 16 << 20
_RETRY: Final = RetryPolicy(attempts=2)


class Tokenizers:
    """Asks experts for the ids of a text."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._clients: dict[tuple[str, Path], ServiceClient] = {}

    async def ids(self, expert: str, call: TokenizeCall) -> list[int]:
        """Ids of the call's text or chat, all inside the expert's vocabulary.

        Raises:
            Invalid: the expert has no tokenizer, or does not take these messages.
            ServiceUnavailable: the expert does not answer.
            DeadlineExceeded: the expert takes too long.
            ServiceFailed: the expert's reply is not valid.
        """
        entry = self._registry.get(expert, "expert", field="expert")
        capabilities = entry.known_info().capabilities
        if not capabilities.tokenizer:
            raise Invalid(f"{expert} has no tokenizer; send token ids", field="prompt")
        try:
            found = (await self._client(entry).tokenize(call, _ANSWER_S)).ids
        except PreceptorError as error:
            raise _as_told(error, expert) from error
        size = capabilities.vocab_size
        if found.size and (found.min() < 0 or (size is not None and found.max() >= size)):
            raise ServiceFailed(f"{expert} gave ids outside its vocabulary of {size}")
        return found.tolist()

    async def stop(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))

    def _client(self, entry: ServiceEntry) -> ServiceClient:
        # Keyed by address, because an expert may move and keep its name.
        place = entry.url, entry.key_file
        if place not in self._clients:
            self._clients[place] = ServiceClient(
                entry.url,
                read_secret(entry.key_file),
                max_concurrency=_AT_ONCE,
                retry=_RETRY,
                max_reply_bytes=_MAX_REPLY_BYTES,
                addresses=self._registry.addresses_of(entry),
            )
        return self._clients[place]


def _as_told(error: PreceptorError, expert: str) -> PreceptorError:
    """`error` for the caller, without the address and the key of the expert."""
    if isinstance(error, Invalid):
        return error
    if isinstance(error, DeadlineExceeded):
        return DeadlineExceeded(f"{expert} took more than {_ANSWER_S:g} s for the ids of the text")
    if error.retryable:
        return ServiceUnavailable(f"{expert} does not answer", retry_after_s=1.0)
    return ServiceFailed(f"{expert} gave no ids of the text: {error.code}")
