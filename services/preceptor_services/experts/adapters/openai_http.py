"""A model behind an OpenAI-compatible server, as an expert: top-k of the prompt, over HTTP.

    preceptor expert serve preceptor_services.experts.adapters.openai_http:OpenAIServer \\
        --option url=http://127.0.0.1:8000 --option tokenizer=FOLDER

`tokenizer` is the student's: ids are sent, and a server whose tokenizer is another is refused. At
the start the server is asked what it can do (`discovery.py`); its cap on entries and its context
become this expert's capabilities. Candidates are not scored: most servers take no list of ids for
each position.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from preceptor_clients.answers import build_answer
from preceptor_clients.context import Context, build_context, find_template
from preceptor_clients.errors import PreceptorError, ServiceUnavailable
from preceptor_clients.fingerprint import ids_hash
from preceptor_clients.schemas import (
    Capabilities,
    PrefixAnswer,
    PrefixQuery,
    ServiceInfo,
    ServiceLimits,
)
from preceptor_services.experts.adapters.dialects import DIALECTS
from preceptor_services.experts.adapters.discovery import Found, discover
from preceptor_services.experts.adapters.rows import distributions
from preceptor_services.experts.adapters.student_tokenizer import StudentTokenizer
from preceptor_services.experts.adapters.upstream import Upstream
from preceptor_services.experts.adapters.waiting import when_there

CODE_VERSION: Final = "1"
"""Raised whenever the same server, settings and query may give another answer."""
_UNBOUNDED: Final = 1 << 30
_log = logging.getLogger("preceptor.expert")


@dataclass(frozen=True, kw_only=True)
class OpenAIServerConfig:
    """Options of an expert behind an OpenAI-compatible server."""

    url: str
    """Address of the server, with or without `/v1`."""
    tokenizer: str
    """Hugging Face folder with the student's tokenizer."""
    name: str = "openai-server"
    """The expert's name in its answers."""
    model: str | None = None
    """Which of the server's models; the only one where absent."""
    key_file: str | None = None
    """Holds the key that the server asks for."""
    dialect: str | None = None
    """`vllm`, `sglang` or `openai`; found by trial where absent."""
    reads_feedback: bool = False
    """Puts the feedback of a query into the prompt; else the feedback is left out."""
    template: str = "compact"
    """`compact`, `papers`, or the path of a Jinja file."""
    max_top_k: int = 128
    """Most entries per position; the server's own cap may be lower."""
    max_context: int | None = None
    """Tokens of context and response; what the server says where absent."""
    max_batch: int = 64
    """Queries in one call."""
    max_concurrency: int = 4
    """Requests to the server at a time."""
    timeout_s: float = 120.0
    """Most seconds of one request, waiting and retries included."""
    start_timeout_s: float = 600.0
    """How long the server may take until it answers at the start; models load slowly."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: {self.url!r} is no http address")
        names = [d.name for d in DIALECTS]
        if self.dialect is not None and self.dialect not in names:
            raise ValueError(f"dialect: {self.dialect!r} is none of {names}")
        for field in ("max_top_k", "max_batch", "max_concurrency"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)} is below 1")
        for field in ("timeout_s", "start_timeout_s"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}: {getattr(self, field)} is not above 0")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max_context: {self.max_context} is below 2")


class OpenAIServer:
    """An expert of the SDK; every option is a field of `OpenAIServerConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = OpenAIServerConfig(**options)
        self._tokenizer = StudentTokenizer(Path(self._config.tokenizer))
        self._template = find_template(self._config.template)
        self._upstream = Upstream(
            self._config.url,
            self._config.key_file,
            max_concurrency=self._config.max_concurrency,
            timeout_s=self._config.timeout_s,
        )
        self._found: Found | None = None

    async def start(self) -> None:
        """Waits for the server, then finds out what it can do.

        Raises:
            ServiceFailed: it cannot do what an expert must; the reason is named.
        """
        self._found = await when_there(
            lambda: discover(self._upstream, self._config, self._tokenizer),
            self._config.start_timeout_s,
        )
        _log.info("%s: %s, top %d", self._config.url, self._found.model, self._found.max_top_k)

    async def stop(self) -> None:
        """Closes the connections."""
        await self._upstream.aclose()

    def ready(self) -> bool:
        """Whether the server has shown what it can do."""
        return self._found is not None

    def info(self) -> ServiceInfo:
        """What this expert can do."""
        found = self._server
        return ServiceInfo(
            name=self._config.name,
            role="expert",
            version=self._version(found),
            capabilities=Capabilities(
                kinds=("topk",),
                max_top_k=found.max_top_k,
                vocab_fingerprint=self._tokenizer.vocab_fingerprint,
                vocab_size=self._tokenizer.vocab_size,
                max_context=found.max_context,
            ),
            limits=ServiceLimits(
                max_batch=self._config.max_batch, max_concurrency=self._config.max_concurrency
            ),
        )

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        """One answer per query, each a request of its own: the server batches better than we."""
        found = self._server
        return await asyncio.gather(*(self._reply(query, found) for query in queries))

    async def _reply(self, query: PrefixQuery, found: Found) -> PrefixAnswer | PreceptorError:
        try:
            return await self._answer(query, found)
        except PreceptorError as error:
            return error

    async def _answer(self, query: PrefixQuery, found: Found) -> PrefixAnswer:
        context = self._context(query, found)
        ids = [*context.ids.tolist(), *query.response_ids.tolist()]
        first = len(context.ids)
        reply = await self._upstream.post(
            found.dialect.path,
            found.dialect.request(found.model, ids, first, query.top_k),
            timeout_s=query.timeout_ms / 1000,
        )
        return await asyncio.to_thread(self._read, query, context, reply, ids, found)

    def _read(
        self, query: PrefixQuery, context: Context, reply: Any, ids: list[int], found: Found
    ) -> PrefixAnswer:
        rows = found.dialect.rows(reply, ids, len(context.ids), query.top_k)
        arrays, mask_P = distributions(rows, query.position_ids(), query.top_k)
        return build_answer(
            query,
            arrays,
            expert=self._config.name,
            expert_version=self._version(found),
            mask_P=mask_P,
            exact=True,  # the service rounds what is to travel rounded
            template_version=self._template.version if self._config.reads_feedback else None,
            context_hash=ids_hash(context.ids),
            used_feedback=context.used_feedback,
            truncated=context.truncated,
        )

    def _context(self, query: PrefixQuery, found: Found) -> Context:
        if not self._config.reads_feedback:
            query = query.model_copy(update={"feedback": ()})
        return build_context(
            query,
            template=self._template,
            encode=self._tokenizer.encode_chat,
            max_context=found.max_context or _UNBOUNDED,
        )

    @property
    def _server(self) -> Found:
        if self._found is None:
            raise ServiceUnavailable("the server has not answered yet", retry_after_s=1)
        return self._found

    def _version(self, found: Found) -> str:
        decides = {
            "code": CODE_VERSION,
            "model": found.model,
            "server": found.server_version,
            "dialect": found.dialect.name,
            "vocabulary": self._tokenizer.vocab_fingerprint,
            "max_context": found.max_context,
            "template": self._template.version if self._config.reads_feedback else None,
        }
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return f"{CODE_VERSION}-{digest[:16]}"
