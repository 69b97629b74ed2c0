"""The service SDK: a Python class with one async method becomes an expert or a feedback source.

`service_app` wraps it in a plain ASGI callable that any ASGI server runs. It implements the wire
contract in both renderings, checks key, sizes and queries, and turns every error into problem
details; the class sees only typed queries and returns typed answers. It needs numpy, pydantic and
zstandard, no server framework, so that it runs inside an inference engine's own environment.

Example:
    class Uniform:
        def info(self) -> ServiceInfo: ...

        async def logprobs(self, queries, answer_keys):
            return [self._answer(query) for query in queries]

    app = service_app(Uniform(), key="secret")     # uvicorn module:app
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast, runtime_checkable

from pydantic import BaseModel

from preceptor_clients.contract import wire
from preceptor_clients.contract.checks import check_query
from preceptor_clients.contract.errors import (
    Invalid,
    MethodNotAllowed,
    NotFound,
    PreceptorError,
    ServiceUnavailable,
    Unauthorised,
)
from preceptor_clients.contract.generation import (
    GenerateAnswer,
    GenerateCall,
    GenerateReply,
    GenerateResult,
    GeneratingService,
    SleepCall,
    SleepingService,
    check_generate,
)
from preceptor_clients.contract.json_text import allow_long_integers
from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackCall,
    FeedbackQuery,
    FeedbackReply,
    FeedbackResult,
    LogprobsCall,
    LogprobsReply,
    PrefixAnswer,
    PrefixQuery,
    PrefixResult,
    ServiceInfo,
    WeightsOffer,
)
from preceptor_clients.contract.tokenization import TokenizeCall, TokenizingService
from preceptor_clients.contract.version import CONTRACT, HEADER, check_contract
from preceptor_clients.kit import request_ids, tracing
from preceptor_clients.kit.threads import on_bytes
from preceptor_clients.sdk.answers import rounded
from preceptor_clients.sdk.asgi import (
    ASGIApp,
    ClientGone,
    Receive,
    Reply,
    Scope,
    Send,
    header,
    problem_reply,
    read_body,
    send_reply,
    unless_gone,
)

MAX_BODY_BYTES: Final = 256 << 20
_REPLY_BYTES: Final = 1 << 10
_JSON_ENTRY_BYTES: Final = 32
_log = logging.getLogger("preceptor.service")


class AnswerLater:
    """The expert's promise to send this answer to its answer key later."""


PrefixReply = PrefixAnswer | PreceptorError | AnswerLater


@runtime_checkable
class ExpertService(Protocol):
    """Answers prefixes with next-token distributions."""

    def info(self) -> ServiceInfo: ...

    async def logprobs(
        self, queries: Sequence[PrefixQuery], answer_keys: Sequence[str]
    ) -> Sequence[PrefixReply]:
        """One reply per query, in order; `answer_keys` is as long, or empty.

        An error among the replies concerns that query; an error raised concerns the whole call.
        Queries that the declared capabilities rule out are refused before this call. The call is
        cancelled when its caller disconnects; work in a thread goes on until it ends, so a model
        needs its own lock.
        """
        ...


@runtime_checkable
class SourceService(Protocol):
    """Gives feedback on attempts."""

    def info(self) -> ServiceInfo: ...

    async def feedback(
        self, queries: Sequence[FeedbackQuery]
    ) -> Sequence[FeedbackAnswer | PreceptorError]:
        """One reply per query, in order."""
        ...


@runtime_checkable
class WeightedService(Protocol):
    """Answers with versions of a policy's weights."""

    async def offer_weights(self, offer: WeightsOffer) -> None:
        """Registers versions that it may load; it may load one when a query needs it."""
        ...


@runtime_checkable
class Startable(Protocol):
    """A service with work to do before the first call, such as loading a model."""

    async def start(self) -> None: ...


@runtime_checkable
class Stoppable(Protocol):
    """A service with resources to close."""

    async def stop(self) -> None: ...


@runtime_checkable
class Readying(Protocol):
    """A service that becomes ready some time after its start."""

    def ready(self) -> bool: ...


class _Call(NamedTuple):
    body: bytes
    content_type: str | None
    rendering: wire.Rendering


Handler = Callable[[_Call], Coroutine[Any, Any, Reply]]


def service_app(
    service: ExpertService | SourceService,
    *,
    key: str | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> ASGIApp:
    """The ASGI callable of `service`.

    Args:
        service: An `ExpertService`, a `SourceService` or both; `generate`, `sleep`,
            `tokenize`, `offer_weights`, `start`, `stop` and `ready` are used where it has them.
        key: Bearer key that every call but the health checks must carry; none where absent.
        max_body_bytes: Larger requests are refused while they arrive.
    """
    allow_long_integers()
    return _ServiceApp(service, key, max_body_bytes)


class _ServiceApp:
    def __init__(
        self, service: ExpertService | SourceService, key: str | None, max_body_bytes: int
    ) -> None:
        self._service = service
        self._key = None if key is None else f"Bearer {key}".encode()
        self._max_body_bytes = max_body_bytes
        self._slots: asyncio.Semaphore | None = None
        self._routes: dict[str, dict[str, Handler]] = {
            "/livez": {"GET": self._live},
            "/readyz": {"GET": self._ready},
            "/v1/info": {"GET": self._info},
        }
        if isinstance(service, ExpertService):
            self._routes["/v1/logprobs"] = {"POST": self._logprobs}
        if isinstance(service, SourceService):
            self._routes["/v1/feedback"] = {"POST": self._feedback}
        if isinstance(service, GeneratingService):
            self._routes["/v1/generate"] = {"POST": self._generate}
        if isinstance(service, SleepingService):
            self._routes["/v1/sleep"] = {"POST": self._sleep}
        if isinstance(service, TokenizingService):
            self._routes["/v1/tokenize"] = {"POST": self._tokenize}
        if isinstance(service, WeightedService):
            self._routes["/v1/weights"] = {"PUT": self._weights}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            sent = request_ids.received_joined(header(scope, request_ids.HEADER))
            with request_ids.serving(sent):
                if sent is not None and tracing.is_on():
                    with tracing.span(f"answer {scope['path']}"):
                        await self._serve(scope, receive, send)
                else:
                    await self._serve(scope, receive, send)
        else:
            raise ValueError(f"scope {scope['type']!r} is not served")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        try:
            reply = await self._reply(scope, receive)
        except ClientGone:
            _log.debug("%s %s: the caller has left", scope["method"], scope["path"])
            return
        _log.debug(
            "%s %s: %d after %.1f ms",
            *(scope["method"], scope["path"], reply.status),
            (time.monotonic() - began) * 1000,
        )
        await send_reply(send, reply)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            if isinstance(self._service, Startable):
                await self._service.start()
        except Exception as error:
            _log.exception("the service did not start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if isinstance(self._service, Stoppable):
            await self._service.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        try:
            check_contract(header(scope, HEADER), "the caller")
            handler = self._route(scope)
            body = await read_body(scope, receive, self._max_body_bytes)
            rendering = wire.accepted(header(scope, "accept"))
            call = _Call(body, header(scope, "content-type"), rendering)
            return await unless_gone(receive, handler(call))
        except ClientGone:
            raise
        except PreceptorError as error:
            return problem_reply(error)
        except Exception:
            # Outermost handler: details of the fault belong in the log, not in the reply.
            _log.exception("%s %s failed", scope["method"], scope["path"])
            return problem_reply(PreceptorError("the service failed; its log says why"))

    def _route(self, scope: Scope) -> Handler:
        path, method = scope["path"], scope["method"]
        methods = self._routes.get(path)
        if methods is None:
            raise NotFound(f"no route {path}")
        if path.startswith("/v1/") and not self._key_fits(scope):
            raise Unauthorised("send `Authorization: Bearer KEY`", field="authorization")
        if method not in methods:
            raise MethodNotAllowed(f"{path} takes {', '.join(methods)}")
        return methods[method]

    def _key_fits(self, scope: Scope) -> bool:
        sent = (header(scope, "authorization") or "").encode("latin-1")
        return self._key is None or hmac.compare_digest(sent, self._key)

    async def _live(self, call: _Call) -> Reply:
        return Reply(200, b'{"state":"live"}', wire.JSON)

    async def _ready(self, call: _Call) -> Reply:
        if isinstance(self._service, Readying) and not self._service.ready():
            raise ServiceUnavailable("not ready yet", retry_after_s=1)
        return Reply(200, b'{"state":"ready"}', wire.JSON)

    async def _info(self, call: _Call) -> Reply:
        info = self._service.info()
        tokenizer = {"tokenizer": "/v1/tokenize" in self._routes}
        capabilities = info.capabilities.model_copy(update=tokenizer)
        info = info.model_copy(
            update={"frames": True, "capabilities": capabilities, "contract": CONTRACT}
        )
        return Reply(200, wire.render(info, wire.JSON), wire.JSON)

    async def _logprobs(self, call: _Call) -> Reply:
        service = cast("ExpertService", self._service)
        request = await _parsed(LogprobsCall, call)
        queries, keys = request.queries, request.answer_keys
        if keys and len(keys) != len(queries):
            raise Invalid(f"has {len(keys)} keys for {len(queries)} queries", field="answer_keys")
        info = service.info()
        _check_batch(len(queries), info)
        results: dict[int, PrefixReply] = {}
        for index, query in enumerate(queries):
            try:
                check_query(query, info.capabilities, f"expert {info.name}")
            except PreceptorError as error:
                results[index] = error
        asked = [i for i in range(len(queries)) if i not in results]
        if asked:
            async with self._slot(info):
                answered = await service.logprobs(
                    [queries[i] for i in asked], [keys[i] for i in asked] if keys else []
                )
            results.update(zip(asked, answered, strict=True))
        replies = [results[i] for i in range(len(queries))]
        return await on_bytes(
            _size_of(replies, call.rendering), _prefix_reply, replies, call.rendering
        )

    async def _feedback(self, call: _Call) -> Reply:
        service = cast("SourceService", self._service)
        request = await _parsed(FeedbackCall, call)
        info = service.info()
        _check_batch(len(request.queries), info)
        answers: Sequence[FeedbackAnswer | PreceptorError] = []
        if request.queries:
            async with self._slot(info):
                answers = await service.feedback(request.queries)
        results = tuple(
            _feedback_result(answer) for _, answer in zip(request.queries, answers, strict=True)
        )
        return await asyncio.to_thread(_rendered, FeedbackReply(results=results), call.rendering)

    async def _generate(self, call: _Call) -> Reply:
        service = cast("GeneratingService", self._service)
        request = await _parsed(GenerateCall, call)
        info = service.info()
        _check_batch(len(request.queries), info)
        results: dict[int, GenerateAnswer | PreceptorError] = {}
        for index, query in enumerate(request.queries):
            try:
                check_generate(query, info.capabilities)
            except PreceptorError as error:
                results[index] = error
        asked = [i for i in range(len(request.queries)) if i not in results]
        if asked:
            async with self._slot(info):
                drawn = await service.generate([request.queries[i] for i in asked])
            results.update(zip(asked, drawn, strict=True))
        replies = tuple(_generate_result(results[i]) for i in range(len(request.queries)))
        return await asyncio.to_thread(_rendered, GenerateReply(results=replies), call.rendering)

    async def _sleep(self, call: _Call) -> Reply:
        await cast("SleepingService", self._service).sleep(await _parsed(SleepCall, call))
        return Reply(204)

    async def _tokenize(self, call: _Call) -> Reply:
        service = cast("TokenizingService", self._service)
        ids = await service.tokenize(await _parsed(TokenizeCall, call))
        return await asyncio.to_thread(_rendered, ids, call.rendering)

    async def _weights(self, call: _Call) -> Reply:
        await cast("WeightedService", self._service).offer_weights(
            await _parsed(WeightsOffer, call)
        )
        return Reply(204)

    def _slot(self, info: ServiceInfo) -> asyncio.Semaphore:
        """Limits calls to the declared concurrency; further calls wait here."""
        if self._slots is None:
            self._slots = asyncio.Semaphore(info.limits.max_concurrency)
        return self._slots


async def _parsed(cls: type[wire.M], call: _Call) -> wire.M:
    size = wire.reading_size(call.body)
    return await on_bytes(size, wire.parse, cls, call.body, call.content_type)


def _rendered(message: BaseModel, rendering: wire.Rendering) -> Reply:
    media_type, exact, compress = rendering
    body = wire.render(message, media_type, exact=exact, compress=compress)
    return Reply(200, body, media_type)


def _size_of(replies: Sequence[PrefixReply], rendering: wire.Rendering) -> int:
    """Bytes of the reply; copying the arrays into a frame takes far less time than JSON."""
    entries = sum(r.ids_PK.size for r in replies if isinstance(r, PrefixAnswer))
    each = _JSON_ENTRY_BYTES if rendering.media_type == wire.JSON else 1
    return len(replies) * _REPLY_BYTES + entries * each


def _prefix_reply(replies: Sequence[PrefixReply], rendering: wire.Rendering) -> Reply:
    results = tuple(_prefix_result(reply, rendering.exact) for reply in replies)
    return _rendered(LogprobsReply(results=results), rendering)


def _check_batch(num_queries: int, info: ServiceInfo) -> None:
    if num_queries > info.limits.max_batch:
        raise Invalid(
            f"{num_queries} queries are over the limit of {info.limits.max_batch} per call",
            field="queries",
        )


def _prefix_result(reply: PrefixReply, exact: bool) -> PrefixResult:
    match reply:
        case AnswerLater():
            return PrefixResult(accepted=True)
        case PreceptorError():
            return PrefixResult(problem=reply.problem())
        case PrefixAnswer():
            return PrefixResult(answer=reply) if exact else _rounded_result(reply)


def _rounded_result(answer: PrefixAnswer) -> PrefixResult:
    """The answer on the grid; one that cannot be on it is the problem of its own query."""
    try:
        return PrefixResult(answer=rounded(answer))
    except PreceptorError as error:
        return PrefixResult(problem=error.problem())


def _generate_result(reply: GenerateAnswer | PreceptorError) -> GenerateResult:
    if isinstance(reply, PreceptorError):
        return GenerateResult(problem=reply.problem())
    return GenerateResult(answer=reply)


def _feedback_result(reply: FeedbackAnswer | PreceptorError) -> FeedbackResult:
    if isinstance(reply, PreceptorError):
        return FeedbackResult(problem=reply.problem())
    return FeedbackResult(answer=reply)
