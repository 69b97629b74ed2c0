"""The client of one service, as dispatchers, the registry and tools use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import ServiceFailed
from preceptor_clients.contract.generation import (
    GenerateCall,
    GenerateQuery,
    GenerateReply,
    SleepCall,
)
from preceptor_clients.contract.schemas import (
    FeedbackCall,
    FeedbackQuery,
    FeedbackReply,
    LogprobsCall,
    LogprobsReply,
    PrefixQuery,
    ServiceInfo,
    WeightManifest,
    WeightsOffer,
)
from preceptor_clients.contract.tokenization import TokenIds, TokenizeCall
from preceptor_clients.http.connection import (
    CALL_TIMEOUT_S,
    HttpClient,
)

_MOST_INFO_BYTES: Final = 1 << 20
_MOST_TOKENIZED_BYTES: Final = 16 << 20
_BYTES_PER_QUERY: Final = 1 << 20
_BYTES_PER_ENTRY: Final = 64
"""A token id and a log-prob as JSON, with a margin."""
_ENTRIES_ASSUMED: Final = 64
"""Fewest entries to allow for per position: a reply may hold more draws than were requested."""
_WEIGHTS_S: Final = 60.0
_READ_BYTES_PER_S: Final = 50 << 20
"""Reading, hashing and averaging weights, on a slow disk and two busy cores."""
_BYTES_ASSUMED: Final = 32 << 30
"""Size of a version that does not declare its own."""
_Reply = TypeVar("_Reply", bound=LogprobsReply | FeedbackReply | GenerateReply)


class ServiceClient(HttpClient):
    """Calls one expert or feedback source, as the dispatcher does."""

    _frames: bool | None = None

    async def info(self, timeout_s: float = CALL_TIMEOUT_S) -> ServiceInfo:
        """The service's description of itself."""
        info = await self.call(
            "GET",
            "/v1/info",
            reply=ServiceInfo,
            timeout_s=timeout_s,
            max_reply_bytes=_MOST_INFO_BYTES,
        )
        self._frames = info.frames
        return info

    async def logprobs(self, call: LogprobsCall, timeout_s: float) -> LogprobsReply:
        """One result per query, in order."""
        return await self.ask("/v1/logprobs", call, LogprobsReply, timeout_s)

    async def feedback(self, call: FeedbackCall, timeout_s: float) -> FeedbackReply:
        """One result per query, in order."""
        return await self.ask("/v1/feedback", call, FeedbackReply, timeout_s)

    async def generate(self, call: GenerateCall, timeout_s: float) -> GenerateReply:
        """One result per query, in order."""
        return await self.ask("/v1/generate", call, GenerateReply, timeout_s)

    async def sleep(self, call: SleepCall, timeout_s: float) -> None:
        """Puts the model of a service that draws responses to sleep, or wakes it."""
        await self.call("POST", "/v1/sleep", body=call, timeout_s=timeout_s, media_type=wire.JSON)

    async def tokenize(self, call: TokenizeCall, timeout_s: float) -> TokenIds:
        """Ids of a text or a chat, from a service that declares the capability `tokenizer`."""
        return await self.call(
            "POST",
            "/v1/tokenize",
            body=call,
            reply=TokenIds,
            timeout_s=timeout_s,
            media_type=wire.JSON,
            max_reply_bytes=_MOST_TOKENIZED_BYTES,
        )

    async def offer_weights(self, offer: WeightsOffer, timeout_s: float | None = None) -> None:
        """Offers the service versions that it may load, ancestors first.

        Args:
            offer: The service may read and average the last of them before it replies.
            timeout_s: Where absent, as long as reading a version of that size may take.
        """
        if timeout_s is None:
            timeout_s = reading_timeout_s(offer.manifests)
        await self.call("PUT", "/v1/weights", body=offer, timeout_s=timeout_s, media_type=wire.JSON)

    async def ask(
        self,
        path: str,
        call: LogprobsCall | FeedbackCall | GenerateCall,
        reply: type[_Reply],
        timeout_s: float,
    ) -> _Reply:
        """One result per query of a call, in order, whatever the service's role.

        Raises:
            PreceptorError: the call failed, or has results for another number of queries.
        """
        # Services in other languages may support JSON only; they declare it in their info.
        if self._frames is None:
            await self.info(timeout_s)
        media_type = wire.FRAME if self._frames else wire.JSON
        answer = await self.call(
            "POST",
            path,
            body=call,
            reply=reply,
            timeout_s=timeout_s,
            media_type=media_type,
            max_reply_bytes=sum(_most_bytes(query) for query in call.queries) + _BYTES_PER_QUERY,
        )
        if len(answer.results) != len(call.queries):
            raise ServiceFailed(
                f"{path}: {len(answer.results)} results for {len(call.queries)} queries"
            )
        return answer


def reading_timeout_s(manifests: Sequence[WeightManifest]) -> float:
    """Seconds to wait for one that reads the last of these versions, by its size and its base's."""
    last = manifests[-1] if manifests else None
    read = [one for one in manifests if last and one.version in (last.version, last.base)]
    size = sum(_BYTES_ASSUMED if one.num_bytes is None else one.num_bytes for one in read)
    return _WEIGHTS_S + size / _READ_BYTES_PER_S


def _most_bytes(query: PrefixQuery | FeedbackQuery | GenerateQuery) -> int:
    """Size of the longest valid reply to `query`; a longer one is not kept in memory."""
    if isinstance(query, FeedbackQuery):
        return _BYTES_PER_QUERY
    if isinstance(query, GenerateQuery):
        num_tokens = query.count * query.sampling.max_new_tokens
        return _BYTES_PER_QUERY + num_tokens * _BYTES_PER_ENTRY
    num_candidates = 0 if query.candidate_ids is None else query.candidate_ids.shape[1]
    num_entries = max(query.top_k + num_candidates, _ENTRIES_ASSUMED)
    return _BYTES_PER_QUERY + query.num_positions * num_entries * _BYTES_PER_ENTRY
