"""A response token by token with each expert's distribution, for the page that shows it.

The experts' answers are those recorded in the targets of the item's rollout. Ids are spelled with
the vocabulary that the people's expert has stored; the gateway has no tokenizer.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.corrections import (
    ExpertOpinion,
    ExpertsView,
    NewItem,
    TokenEntry,
    TokenView,
    Vocabulary,
)
from preceptor_clients.contract.errors import NotFound
from preceptor_clients.targets.builder import Target, TargetComponent
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import BlobStore
from preceptor_services.kit.clock import Clock
from preceptor_services.store import services
from preceptor_services.store.corrections import items as items
from preceptor_services.store.corrections import results as results
from preceptor_services.store.database import Database

_ENTRIES: Final = 5
Pieces = Sequence[bytes]


class Span(NamedTuple):
    """One token's place in the decoded text, in characters."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class ExpertViews:
    """Reads responses token by token."""

    database: Database
    clock: Clock
    array_blobs: ArrayBlobs
    blobs: BlobStore
    _pieces: dict[str, Pieces] = field(default_factory=dict[str, Pieces])

    async def put_vocabulary(self, fingerprint: str, vocabulary: Vocabulary) -> None:
        """Stores the spelling of a vocabulary's ids."""
        content = json.dumps(vocabulary.pieces, ensure_ascii=True).encode()
        sha256 = await self.blobs.put(content)
        async with self.database.write() as conn:
            await services.add_blobs(conn, {sha256: len(content)}, self.clock.now())
            await results.put_vocabulary(conn, fingerprint, sha256, len(vocabulary.pieces))

    async def tokens(self, item_id: str, start: int, stop: int) -> ExpertsView:
        """Tokens `start` to `stop` of an item's response.

        Raises:
            NotFound: the item has no ids, or no vocabulary was stored for them.
        """
        async with self.database.read() as conn:
            document = (await items.documents(conn, [item_id])).get(item_id)
            if document is None:
                raise NotFound(f"no item {item_id!r}", field="item")
            item = NewItem.model_validate(document)
            if item.response_ids is None or item.vocab_fingerprint is None:
                raise NotFound("the item has no token ids: it was sent as text only", field="item")
            blob = await results.vocabulary(conn, item.vocab_fingerprint)
            rollout_id = item.rollout_id or ""
            placed = await results.targets_of_rollout(conn, rollout_id)
            recorded = (await results.rollouts(conn, [rollout_id])).get(rollout_id)
        pieces = await self._read_pieces(item.vocab_fingerprint, blob)
        components = await self._components(rollout_id, placed, len(item.response_ids))
        student = None
        if recorded is not None:
            arrays = (await self.array_blobs.read(recorded.pack_sha256))[rollout_id]
            student = _same_length(arrays["behaviour_logprobs"], len(item.response_ids))
        ids = [int(i) for i in item.response_ids]
        spans = spans_of([_piece(pieces, i) for i in ids])
        shown = range(min(start, len(ids)), min(stop, len(ids)))
        return ExpertsView(
            total=len(ids),
            start=shown.start,
            tokens=tuple(_token(t, ids, spans[t], pieces, components, student) for t in shown),
        )

    async def _read_pieces(self, fingerprint: str, blob: str | None) -> Pieces:
        if blob is None:
            raise NotFound(
                "the people's expert has not stored the vocabulary of these ids",
                field="vocabulary",
            )
        if fingerprint not in self._pieces:
            words: list[str] = json.loads(await self.blobs.get(blob))
            self._pieces[fingerprint] = [word.encode("latin-1") for word in words]
        return self._pieces[fingerprint]

    async def _components(
        self, rollout_id: str, placed: Sequence[tuple[str, str]], num_tokens: int
    ) -> list[TargetComponent]:
        """Each answer's component once, without people's own: they must not see each other."""
        found: dict[str, TargetComponent] = {}
        for target_id, pack in placed:
            arrays: Any = (await self.array_blobs.read(pack))[target_id]
            for component in Target.from_wire(rollout_id, arrays).components:
                if component.kind != "point" and len(component.weight_T) == num_tokens:
                    found[component.answer_id] = component
        return list(found.values())


def spans_of(pieces: Sequence[bytes]) -> list[Span]:
    """The span of each token in the text; one that ends inside a character ends before it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    spans: list[Span] = []
    end = 0
    for piece in pieces:
        start = end
        end += len(decoder.decode(piece))
        spans.append(Span(start, end))
    return spans


def _piece(pieces: Pieces, token: int) -> bytes:
    return pieces[token] if 0 <= token < len(pieces) else b""


def _same_length(values: Any, num_tokens: int) -> np.ndarray | None:
    return values if len(values) == num_tokens else None


def _spelled(pieces: Pieces, token: int) -> str:
    return _piece(pieces, token).decode("utf-8", "replace")


def _token(
    t: int,
    ids: Sequence[int],
    span: Span,
    pieces: Pieces,
    components: Sequence[TargetComponent],
    student: np.ndarray | None,
) -> TokenView:
    opinions = tuple(_opinion(t, pieces, c) for c in components if c.weight_T[t] > 0)
    own = [o.own_prob for o in opinions if o.own_prob is not None]
    return TokenView(
        start=span.start,
        end=span.end,
        text=_spelled(pieces, ids[t]),
        student_prob=None if student is None else _prob(student[t]),
        disagreement=1 - sum(own) / len(own) if own else None,
        opinions=opinions,
    )


def _opinion(t: int, pieces: Pieces, component: TargetComponent) -> ExpertOpinion:
    best = [
        TokenEntry(text=_spelled(pieces, int(i)), prob=float(p))
        for i, p in zip(component.ids_TK[t], component.probs_TK[t], strict=True)
        if i >= 0
    ]
    known = bool(component.own_mask_T[t])
    return ExpertOpinion(
        expert=component.expert,
        entries=tuple(best[:_ENTRIES]),
        own_prob=_prob(component.own_logprobs_T[t]) if known else None,
    )


def _prob(logprob: float) -> float | None:
    return None if logprob <= MISSING / 2 else float(min(1.0, np.exp(logprob)))


def pieces_as_text(pieces: Mapping[int, bytes], size: int) -> tuple[str, ...]:
    """Pieces by id as a `Vocabulary` carries them."""
    return tuple(pieces.get(i, b"").decode("latin-1") for i in range(size))
