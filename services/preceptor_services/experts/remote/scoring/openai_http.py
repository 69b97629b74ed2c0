"""A model behind an OpenAI-compatible server, as an expert: top-k log-probs of the prompt.

    preceptor expert serve preceptor_services.experts.remote.scoring.openai_http:OpenAIServer \\
        --option url=http://127.0.0.1:8000 --option tokenizer=FOLDER

`tokenizer` is the student's: ids are sent, and a server with another tokenizer is refused. At the
start the server's capabilities are detected (`discovery.py`); its cap on entries and its context
become those of this expert. Candidates are not scored, because most servers accept no list of ids
per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.fingerprint import ids_hash, settings_version
from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery, ServiceInfo
from preceptor_clients.sdk.answers import build_answer
from preceptor_clients.sdk.context import build_context, find_template
from preceptor_services.experts.remote.answer_each import answer_each
from preceptor_services.experts.remote.scoring.options import ScoringOptions
from preceptor_services.experts.remote.scoring.rows import distributions
from preceptor_services.experts.remote.scoring.scoring_server import ScoringServer
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer

CODE_VERSION: Final = "2"
"""Increased whenever the answer to the same server, settings and query may change."""
_UNBOUNDED: Final = 1 << 30


@dataclass(frozen=True, kw_only=True)
class OpenAIServerConfig(ScoringOptions):
    """Options of an expert behind an OpenAI-compatible server."""

    name: str = "openai-server"
    max_batch: int = 64


class OpenAIServer:
    """An expert of the SDK; every option is a field of `OpenAIServerConfig`."""

    def __init__(self, **options: Any) -> None:
        self._config = OpenAIServerConfig(**options)
        self._tokenizer = StudentTokenizer(Path(self._config.tokenizer))
        self._template = find_template(self._config.template)
        self._server = ScoringServer(self._config, self._tokenizer)

    async def start(self) -> None:
        """Waits for the server, then detects its capabilities."""
        await self._server.start()

    async def stop(self) -> None:
        """Closes the connections."""
        await self._server.stop()

    def ready(self) -> bool:
        """Whether the server's capabilities are known."""
        return self._server.ready()

    def info(self) -> ServiceInfo:
        """Capabilities of this expert."""
        return self._server.info(
            self._version(), self._tokenizer, max_context=self._server.found.max_context
        )

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixAnswer | PreceptorError]:
        """One answer per query, with one request each: the server does the batching."""
        return await answer_each(queries, self._answer)

    async def _answer(self, query: PrefixQuery) -> PrefixAnswer:
        context = build_context(
            query,
            template=self._template,
            encode=self._tokenizer.encode_chat,
            max_context=self._server.found.max_context or _UNBOUNDED,
            reads_feedback=self._config.reads_feedback,
        )
        rows = await self._server.rows(
            [*context.ids.tolist(), *query.response_ids.tolist()],
            len(context.ids),
            query.top_k,
            timeout_s=query.timeout_ms / 1000,
        )
        arrays, mask_P = distributions(rows, query.position_ids(), query.top_k)
        return build_answer(
            query,
            arrays,
            expert=self._config.name,
            expert_version=self._version(),
            mask_P=mask_P,
            exact=True,  # the service rounds later, where the reply is to be rounded
            template_version=self._template.version if self._config.reads_feedback else None,
            context_hash=ids_hash(context.ids),
            used_feedback=context.used_feedback,
            truncated=context.truncated,
        )

    def _version(self) -> str:
        found = self._server.found
        return settings_version(
            CODE_VERSION,
            {
                "code": CODE_VERSION,
                "model": found.model,
                "server": found.server_version,
                "dialect": found.dialect.name,
                "vocabulary": self._tokenizer.vocab_fingerprint,
                "max_context": found.max_context,
                "template": self._template.version if self._config.reads_feedback else None,
            },
        )
