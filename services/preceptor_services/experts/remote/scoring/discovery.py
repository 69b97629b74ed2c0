"""Detects a server's capabilities by requests: its model, its dialect, its number of entries.

Names alone are not relied on: a dialect is accepted if the reply to a short prompt has rows about
its tokens. The cap is the largest number of best entries that the server returned, so it is the
same for a server that refuses more and for one that silently returns fewer. The own token is not
counted where the server may have added it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from preceptor_clients.contract.errors import PreceptorError, ServiceFailed
from preceptor_services.experts.remote.scoring.dialects import DIALECTS, Dialect
from preceptor_services.experts.remote.scoring.rows import Row
from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer
from preceptor_services.kit.upstream import Refused, Upstream, member

_PROBE: Final = "Two and two are 4; nobody knows why."


class Wanted(Protocol):
    """The configured facts about the server; those that are None are detected."""

    @property
    def model(self) -> str | None: ...
    @property
    def dialect(self) -> str | None: ...
    @property
    def max_top_k(self) -> int: ...
    @property
    def max_context(self) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class Found:
    """The detected capabilities of a server that can score a prompt."""

    model: str
    dialect: Dialect
    max_top_k: int
    max_context: int | None
    server_version: str | None


async def discover(upstream: Upstream, wanted: Wanted, tokenizer: StudentTokenizer) -> Found:
    """Detects the server's model and capabilities.

    Raises:
        ServiceFailed: it does not have the model, has another tokenizer, or returns no log-probs of
            a prompt in any known dialect; the message has the reason for each dialect.
    """
    card = await find_model(upstream, wanted.model)
    model = str(card["id"])
    await _check_tokenizer(upstream, model, tokenizer)
    probe = _Probe(upstream, model, tokenizer)
    dialect = await _find_dialect(probe, wanted.dialect, str(card.get("owned_by", "")))
    cap = await _find_cap(probe, dialect, min(wanted.max_top_k, tokenizer.vocab_size))
    return Found(
        model=model,
        dialect=dialect,
        max_top_k=cap,
        max_context=_context(wanted.max_context, card.get("max_model_len"), dialect.generates),
        server_version=await _version(upstream),
    )


async def find_model(upstream: Upstream, wanted: str | None) -> dict[str, Any]:
    """The server's entry for the wanted model, or for its only model."""
    try:
        listed = member(await upstream.get("/v1/models"), "data")
    except Refused:
        listed = None
    cards = [c for c in cast("list[Any]", listed or []) if isinstance(member(c, "id"), str)]
    if wanted is None:
        if len(cards) != 1:
            raise ServiceFailed(
                f"model: is missing; the server has {[c['id'] for c in cards] or 'no list'}"
            )
        return cards[0]
    if not cards:
        return {"id": wanted}
    for card in cards:
        if card["id"] == wanted:
            return card
    raise ServiceFailed(
        f"model: {wanted!r} is not served; the server has {[c['id'] for c in cards]}"
    )


@dataclass(frozen=True)
class _Probe:
    upstream: Upstream
    model: str
    tokenizer: StudentTokenizer

    async def rows(self, dialect: Dialect, top_k: int) -> list[Row]:
        ids = self.tokenizer.encode(_PROBE)
        reply = await self.upstream.post(dialect.path, dialect.request(self.model, ids, 1, top_k))
        return dialect.rows(reply, ids, 1, top_k)


async def _find_dialect(probe: _Probe, wanted: str | None, owner: str) -> Dialect:
    names = [d.name for d in DIALECTS]
    if wanted is not None:
        names = [wanted]
    elif owner in names:
        names = [owner, *(n for n in names if n != owner)]
    reasons = list[str]()
    for name in names:
        dialect = next(d for d in DIALECTS if d.name == name)(probe.tokenizer)
        try:
            await probe.rows(dialect, 1)
        except ServiceFailed as error:
            reasons.append(f"{name}: {error.detail}")
        else:
            return dialect
    raise ServiceFailed(
        "the server returns no log-probs of a prompt; "
        + "; ".join(reasons)
        + ". For an API that returns only text use SampleOnly"
    )


async def _find_cap(probe: _Probe, dialect: Dialect, wanted: int) -> int:
    """The largest number of best entries that the server returns, by bisection up to `wanted`."""
    works, fails = 1, wanted + 1
    asked = wanted
    while fails - works > 1:
        given = await _given(probe, dialect, asked)
        if given >= asked:
            works = asked
        else:
            works, fails = max(works, given), asked
        asked = (works + fails) // 2
    return works


async def _given(probe: _Probe, dialect: Dialect, top_k: int) -> int:
    try:
        return max(row.num_best for row in await probe.rows(dialect, top_k))
    except Refused:
        return 0


async def _check_tokenizer(upstream: Upstream, model: str, tokenizer: StudentTokenizer) -> None:
    """Compares the ids of a text, if the server can tokenise (vLLM and SGLang can)."""
    body = {"model": model, "prompt": _PROBE, "add_special_tokens": False}
    try:
        theirs = member(await upstream.post("/tokenize", body), "tokens")
    except Refused:
        return
    ours = tokenizer.encode(_PROBE)
    if isinstance(theirs, list) and theirs != ours:
        raise ServiceFailed(
            f"the server has another tokenizer: {_PROBE!r} has ids {theirs[:8]}... there, "
            f"{ours[:8]}... here"
        )


def _context(wanted: int | None, served: Any, generates: int) -> int | None:
    limits = [limit - generates for limit in (served,) if isinstance(limit, int)]
    return min([*limits, *([] if wanted is None else [wanted])], default=None)


async def _version(upstream: Upstream) -> str | None:
    try:
        found = member(await upstream.get("/version"), "version")
    except PreceptorError:
        return None
    return found if isinstance(found, str) else None
