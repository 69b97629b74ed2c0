"""A server that returns log-probs of a prompt, once its capabilities are detected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from preceptor_clients.contract.errors import ServiceUnavailable
from preceptor_clients.contract.schemas import Capabilities, ServiceInfo, ServiceLimits
from preceptor_services.experts.remote.scoring.discovery import Found, discover
from preceptor_services.experts.remote.scoring.options import ScoringOptions
from preceptor_services.experts.remote.scoring.rows import Row
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_services.experts.remote.waiting import when_there
from preceptor_services.kit.upstream import Upstream

_log: Final = logging.getLogger("preceptor.expert")


class ScoringServer:
    """The server of `options`, with the ids of `tokenizer`."""

    def __init__(self, options: ScoringOptions, tokenizer: StudentTokenizer) -> None:
        self._options = options
        self._tokenizer = tokenizer
        self._upstream = Upstream(
            options.url,
            options.key_file,
            max_concurrency=options.max_concurrency,
            timeout_s=options.timeout_s,
        )
        self._found: Found | None = None

    async def start(self) -> None:
        """Waits for the server, then detects its capabilities.

        Raises:
            ServiceFailed: it cannot be used as an expert; the message has the reason.
        """
        self._found = found = await when_there(
            lambda: discover(self._upstream, self._options, self._tokenizer),
            self._options.start_timeout_s,
        )
        _log.info("%s: %s, top %d", self._options.url, found.model, found.max_top_k)

    async def stop(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()

    def ready(self) -> bool:
        """Whether the server's capabilities are known."""
        return self._found is not None

    @property
    def found(self) -> Found:
        """The detected capabilities.

        Raises:
            ServiceUnavailable: it has not answered yet.
        """
        if self._found is None:
            raise ServiceUnavailable("the server has not answered yet", retry_after_s=1)
        return self._found

    def info(
        self, version: str, student: StudentTokenizer, *, max_context: int | None
    ) -> ServiceInfo:
        """The info of an expert that uses this server.

        Args:
            version: The expert's version.
            student: The tokenizer of the ids in the expert's answers.
            max_context: Most tokens of context and response in the student's tokenizer, if known.
        """
        options = self._options
        return ServiceInfo(
            name=options.name,
            role="expert",
            version=version,
            capabilities=Capabilities(
                kinds=("topk",),
                max_top_k=self.found.max_top_k,
                vocab_fingerprint=student.vocab_fingerprint,
                vocab_size=student.vocab_size,
                max_context=max_context,
                cost_per_token=options.cost_per_token,
            ),
            limits=ServiceLimits(
                max_batch=options.max_batch, max_concurrency=options.max_concurrency
            ),
        )

    async def rows(
        self, ids: Sequence[int], first: int, top_k: int, *, timeout_s: float
    ) -> list[Row]:
        """The distributions over the tokens of `ids` from index `first` on, checked.

        Raises:
            ServiceFailed: the reply is about other tokens, or is not a distribution.
        """
        dialect = self.found.dialect
        body = dialect.request(self.found.model, ids, first, top_k)
        reply = await self._upstream.post(dialect.path, body, timeout_s=timeout_s)
        return await asyncio.to_thread(dialect.rows, reply, ids, first, top_k)
