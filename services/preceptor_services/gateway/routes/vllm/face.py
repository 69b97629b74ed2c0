"""An expert as a vLLM server, for trainers that ask one for `prompt_logprobs`.

The base address is `/vllm/NAME` of the gateway; below it lie `/health`, `/v1/models`,
`/v1/completions` and `/tokenize`, to the extent that scoring clients use them:
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html. A sequence of ids is asked as
a prompt of its first id and a response of the others, so that every position is scored. Clients
without an option for keys put the key into the address: `http://any:KEY@gateway/vllm/NAME`.
`completion.py` defines requests and replies.

Text needs an expert with a tokenizer (`tokenizer` among its capabilities), which is asked for the
ids; the gateway has no tokenizer.

A request fails if a position has no opinion, or if its answer comes later. Left out: generation,
texts of the ids, and ranks beyond the requested entries: a token outside them gets the lowest rank
number that is possible for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import uuid
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from preceptor_clients.contract import wire
from preceptor_clients.contract.errors import (
    Conflict,
    Invalid,
    ServiceUnavailable,
    from_problem,
    from_validation,
)
from preceptor_clients.contract.schemas import (
    LogprobsRequest,
    Message,
    PrefixAnswer,
    PrefixOutcome,
    PrefixQuery,
    PrefixSubmission,
    Prompt,
)
from preceptor_clients.contract.tokenization import Text, TokenizeCall
from preceptor_clients.sdk.answers import rounded
from preceptor_services.gateway.http.auth import Needs
from preceptor_services.gateway.http.bodies import body_of
from preceptor_services.gateway.http.depends import QuestionsDep, RegistryDep, TokenizersDep
from preceptor_services.gateway.http.openapi import takes
from preceptor_services.gateway.routes.vllm.completion import Completion, scored
from preceptor_services.kit.threads import ITEM, off_loop
from preceptor_services.registry.keyring import Caller
from preceptor_services.registry.tokenizers import Tokenizers

router = APIRouter(prefix="/vllm/{expert}", tags=["vllm"])
_WAIT_MS: Final = 120_000


class NotAnswered(Conflict):
    """Not every position has an answer within the request's time."""

    code, title = "not-answered", "Some positions have no answer"


class Tokenization(BaseModel):
    """A text or a chat; options that would change the ids are refused, not ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    prompt: Text | None = None
    """A text."""
    messages: tuple[Message, ...] = ()
    """A chat, in place of a text."""
    add_special_tokens: bool | None = None
    """If absent, true for a text and false for a chat."""
    add_generation_prompt: bool = True
    """Whether a chat ends with the beginning of a reply."""
    model: str | None = None
    """The expert that the address names, or absent."""
    continue_final_message: bool = False
    """Not supported: refused where it is true."""
    return_token_strs: bool | None = None
    """Not supported: refused where it is true."""
    chat_template: str | None = None
    """Not supported: the expert's own template is used."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Not supported: refused where it is not empty."""
    tools: list[Any] | None = None
    """Not supported: refused where it is not empty."""

    def call(self) -> TokenizeCall:
        """The call of the expert.

        Raises:
            Invalid: a field is not supported, or there is a text and a chat, or neither.
        """
        for field in _NOT_SERVED:
            if getattr(self, field):
                raise Invalid("is not served here", field=field)
        special = self.add_special_tokens
        try:
            return TokenizeCall(
                prompt=self.prompt,
                messages=self.messages,
                add_special_tokens=not self.messages if special is None else special,
                add_generation_prompt=self.add_generation_prompt,
            )
        except ValidationError as error:
            raise from_validation(error) from None


_NOT_SERVED: Final = (
    *("continue_final_message", "return_token_strs"),
    *("chat_template", "chat_template_kwargs", "tools"),
)


class _NeedsBearerOrPassword(Needs):
    """A dependency: the caller, by a bearer key or by the password of the address."""

    async def __call__(self, request: Request) -> Caller:
        """The caller of this request."""
        sent = request.headers.get("authorization") or ""
        scheme, _, coded = sent.partition(" ")
        if scheme.lower() == "basic":
            try:
                password = base64.b64decode(coded, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                password = ""
            sent = f"Bearer {password}"
        return self.allowed(request, sent)


Asking = Annotated[Caller, Depends(_NeedsBearerOrPassword("trainer"))]


@router.get("/health")
async def health(expert: str, caller: Asking, registry: RegistryDep) -> Response:
    """Returns 200 if the expert is ready."""
    entry = registry.get(expert, "expert", field="expert")
    if entry.state != "ready":
        raise ServiceUnavailable(f"{expert} is {entry.state}", retry_after_s=1.0)
    return Response(status_code=200)


@router.get("/v1/models")
async def models(expert: str, caller: Asking, registry: RegistryDep) -> dict[str, Any]:
    """Lists the only model of this address, the expert."""
    info = registry.get(expert, "expert", field="expert").known_info()
    model = {
        "id": expert,
        "object": "model",
        "owned_by": "preceptor",
        "root": info.version,
        "max_model_len": info.capabilities.max_context,
    }
    return {"object": "list", "data": [model]}


@router.post("/v1/completions", openapi_extra=takes(Completion))
async def completions(
    expert: str,
    caller: Asking,
    questions: QuestionsDep,
    registry: RegistryDep,
    tokenizers: TokenizersDep,
    asked: Annotated[Completion, Depends(body_of(Completion))],
) -> Response:
    """Log-probs of the prompt's own tokens; nothing is generated."""
    _check_model(asked.model, expert)
    can = registry.get(expert, "expert", field="expert").known_info().capabilities
    if can.vocab_fingerprint is None:
        raise Invalid(f"{expert} declares no vocabulary", field="model")
    num_logprobs = asked.num_logprobs(can)
    sequences = await _sequences(asked, expert, tokenizers)
    submissions = tuple(
        PrefixSubmission(
            idempotency_key=uuid.uuid4().hex,
            query=_query(ids, max(1, num_logprobs), can.vocab_fingerprint),
        )
        for ids in sequences
    )
    request = LogprobsRequest(expert=expert, submissions=submissions, wait_ms=_WAIT_MS)
    with questions.notifier.watch() as watch:
        posted = await questions.submissions.logprobs(caller.name, request, watch)
        outcomes = await questions.outcomes.of_prefixes(caller.name, posted, _WAIT_MS, watch)
    answers = [_answer(outcome, i) for i, outcome in enumerate(outcomes.outcomes)]
    size = ITEM * len(answers) + sum(2 * a.ids_PK.size for a in answers)
    body = await off_loop(size, scored, asked, expert, sequences, answers, num_logprobs)
    return Response(body, media_type="application/json")


@router.post("/tokenize", openapi_extra=takes(Tokenization))
async def tokenize(
    expert: str,
    caller: Asking,
    registry: RegistryDep,
    tokenizers: TokenizersDep,
    asked: Annotated[Tokenization, Depends(body_of(Tokenization))],
) -> Response:
    """Ids of a text or a chat, by the expert's tokenizer."""
    _check_model(asked.model, expert)
    ids = await tokenizers.ids(expert, asked.call())
    info = registry.get(expert, "expert", field="expert").known_info()
    page = {"count": len(ids), "max_model_len": info.capabilities.max_context, "tokens": ids}
    body = await off_loop(len(ids), json.dumps, page, separators=(",", ":"))
    return Response(body, media_type="application/json")


async def _sequences(asked: Completion, expert: str, tokenizers: Tokenizers) -> list[list[int]]:
    """The ids to be scored, in order."""

    async def ids_of(prompt: list[int] | str, field: str) -> list[int]:
        if not isinstance(prompt, str):
            return prompt
        call = TokenizeCall(prompt=prompt, add_special_tokens=asked.add_special_tokens)
        ids = await tokenizers.ids(expert, call)
        if len(ids) < 2:
            raise Invalid(f"has {len(ids)} tokens, and the first is not scored", field=field)
        return ids

    prompts = asked.prompts()
    return await asyncio.gather(*(ids_of(p, f"prompt[{i}]") for i, p in enumerate(prompts)))


def _check_model(model: str | None, expert: str) -> None:
    if model not in (None, expert):
        raise Invalid(f"{model!r} is not {expert!r}, the model of this address", field="model")


def _query(ids: list[int], top_k: int, fingerprint: str) -> PrefixQuery:
    return PrefixQuery(
        prompt=Prompt(ids=np.array(ids[:1], np.int32)),
        response_ids=np.array(ids[1:], np.int32),
        vocab_fingerprint=fingerprint,
        top_k=top_k,
        timeout_ms=_WAIT_MS,
    )


def _answer(outcome: PrefixOutcome, index: int) -> PrefixAnswer:
    """The answer, if it has all positions.

    Raises:
        NotAnswered: it is late, or a position is masked, or the own token's log-prob is missing.
        PreceptorError: the question failed for another reason.
    """
    field = f"prompt[{index}]"
    if outcome.problem is not None:
        error = from_problem(outcome.problem)
        if error.status == 504:
            raise NotAnswered(error.detail, field=field, retry_after_s=1.0)
        raise error
    if outcome.answer is None:
        state = "unknown" if outcome.ticket is None else outcome.ticket.state
        raise NotAnswered(
            f"the answer is {state}; ask again when every position is answered",
            field=field,
            retry_after_s=5.0,
        )
    answer = wire.read(outcome.answer)
    known = answer.mask_P if answer.kind != "topk" else answer.mask_P & answer.own_mask_P
    if not known.all():
        position = int(np.flatnonzero(~known)[0]) + 1
        raise NotAnswered(f"position {position} has no answer", field=field)
    return rounded(answer)
