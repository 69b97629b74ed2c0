"""Scoring prefixes with a causal language model: one prefill, no sampling, no gradient.

For each query the model reads context and response once, and at the positions wanted it gives
log q(. | context, response before t) in full precision: the K best entries, the student's own token
and any candidate ids, all normalised over every row of the head. Index convention as in
`schemas.py`: entry t is the distribution over response token t given everything before it, so it is
read from the hidden state one place earlier.

The head is applied to the wanted positions only, in chunks of rows, so that `[rows, V]` never
takes more than a given number of elements. Rows of the head beyond the real vocabulary (padding of
the embedding) count in the normaliser, as they do when the student samples, but are never entries:
their probability is part of the tail.

`score` is the seam of the scoring engine: packed sequences, a shared prompt computed once and a
fused kernel go behind this function. Left out here: packing (sequences are padded on the right,
which a causal model never sees) and logit post-processing such as soft-capping, which `check_head`
refuses.

Example:
    prefill = Prefill(context_ids=context, response_ids=response, positions_P=np.arange(3), top_k=8)
    [distributions] = score(model, [prefill], vocab_size=261)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from preceptor_clients.answers import Distributions
from preceptor_clients.arrays import MISSING

MAX_LOGITS: Final = 32 << 20
"""Elements of `[rows, V]` in one chunk: 128 MB of float32."""
MAX_PADDED_TOKENS: Final = 65_536
"""Tokens, padding included, in one forward pass."""
_HEAD_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """One sequence to read, and what is wanted of it.

    `positions_P` are ascending indices into the response; `candidate_ids_PC` has -1 in empty cells.
    """

    context_ids: np.ndarray
    response_ids: np.ndarray
    positions_P: np.ndarray
    top_k: int
    candidate_ids_PC: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads; nobody asks what follows the last one."""
        return len(self.context_ids) + len(self.response_ids) - 1


def score(
    model: Any,
    prefills: Sequence[Prefill],
    *,
    vocab_size: int,
    max_logits: int = MAX_LOGITS,
    max_padded_tokens: int = MAX_PADDED_TOKENS,
) -> list[Distributions]:
    """What `model` says at every position wanted.

    The same prefills in the same order, on one machine and with one number of threads, give the
    same bits.

    Args:
        model: A causal language model of transformers, in `eval` mode.
        prefills: Sequences with at least one token of context each.
        vocab_size: Ids below it may be entries.
        max_logits: Elements of log-probs held at once.
        max_padded_tokens: Tokens in one forward pass; more are split, in order.

    Returns:
        One `Distributions` per prefill, log-probs as float32.

    Raises:
        ValueError: A prefill without context: nothing precedes its first token.
    """
    for index, prefill in enumerate(prefills):
        if not len(prefill.context_ids):
            raise ValueError(f"prefills[{index}].context_ids: is empty")
    with torch.inference_mode():
        return [
            distributions
            for batch in _forwards(prefills, max_padded_tokens)
            for distributions in _score_batch(model, batch, vocab_size, max_logits)
        ]


def check_head(model: Any, vocab_size: int) -> None:
    """Refuses a model whose log-probs are more than its head applied to its last hidden state.

    Raises:
        ValueError: The model's own logits differ from ours.
    """
    ids = torch.arange(min(8, vocab_size), device=model.device)[None]
    with torch.inference_mode():
        wanted: Tensor = model(input_ids=ids, use_cache=False).logits.float()
        got = _head(model)(_hidden(model, ids)).float()
    gap = (wanted - got).abs().max().item()
    if not gap <= _HEAD_TOLERANCE:
        raise ValueError(f"model: its logits differ by {gap:.1e} from head times hidden state")


def _forwards(prefills: Sequence[Prefill], max_padded_tokens: int) -> Iterator[list[Prefill]]:
    batch: list[Prefill] = []
    longest = 0
    for prefill in prefills:
        longest = max(longest, prefill.num_tokens)
        if batch and longest * (len(batch) + 1) > max_padded_tokens:
            yield batch
            batch, longest = [], prefill.num_tokens
        batch.append(prefill)
    if batch:
        yield batch


def _score_batch(
    model: Any, batch: Sequence[Prefill], vocab_size: int, max_logits: int
) -> list[Distributions]:
    hidden_BLH = _hidden(model, _padded(batch).to(model.device))
    rows, places = _wanted(batch)
    hidden_RH = hidden_BLH[rows.to(model.device), places.to(model.device)]
    own_R, candidates_RC = _asked_ids(batch)
    top_k = min(max(prefill.top_k for prefill in batch), vocab_size)
    head = _head(model)
    step = max(1, max_logits // head.weight.shape[0])
    chunks = [
        _statistics(
            head(hidden_RH[start : start + step]).float(),
            own_R[start : start + step].to(model.device),
            candidates_RC[start : start + step].to(model.device),
            top_k,
            vocab_size,
        )
        for start in range(0, len(hidden_RH), step)
    ]
    ids_RK, logprobs_RK, own_logprobs_R, candidate_logprobs_RC = (
        torch.cat(parts).cpu().numpy() for parts in zip(*chunks, strict=True)
    )
    return _split(batch, ids_RK, logprobs_RK, own_logprobs_R, candidate_logprobs_RC)


def _statistics(
    logits_RV: Tensor, own_R: Tensor, candidates_RC: Tensor, top_k: int, vocab_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    normaliser_R1 = logits_RV.logsumexp(-1, keepdim=True)
    best = logits_RV[:, :vocab_size].topk(top_k, dim=-1)
    own_R1 = logits_RV.gather(1, own_R[:, None])
    candidate_RC = logits_RV.gather(1, candidates_RC.clamp(min=0))
    return (
        best.indices.to(torch.int32),
        best.values - normaliser_R1,
        (own_R1 - normaliser_R1).squeeze(1),
        candidate_RC - normaliser_R1,
    )


def _padded(batch: Sequence[Prefill]) -> Tensor:
    longest = max(prefill.num_tokens for prefill in batch)
    ids_BL = np.zeros((len(batch), longest), np.int64)
    for row, prefill in enumerate(batch):
        tokens = np.concatenate([prefill.context_ids, prefill.response_ids[:-1]])
        ids_BL[row, : len(tokens)] = tokens
    return torch.tensor(ids_BL)


def _wanted(batch: Sequence[Prefill]) -> tuple[Tensor, Tensor]:
    """Row and place of the hidden state that predicts each position wanted."""
    places = [len(p.context_ids) - 1 + p.positions_P for p in batch]
    rows = np.repeat(np.arange(len(batch)), [len(place) for place in places])
    return torch.tensor(rows), torch.tensor(np.concatenate(places).astype(np.int64))


def _asked_ids(batch: Sequence[Prefill]) -> tuple[Tensor, Tensor]:
    own_R = np.concatenate([p.response_ids[p.positions_P] for p in batch]).astype(np.int64)
    width = max(0 if p.candidate_ids_PC is None else p.candidate_ids_PC.shape[1] for p in batch)
    candidates_RC = np.full((len(own_R), width), -1, np.int64)
    start = 0
    for prefill in batch:
        stop = start + len(prefill.positions_P)
        if prefill.candidate_ids_PC is not None:
            candidates_RC[start:stop, : prefill.candidate_ids_PC.shape[1]] = (
                prefill.candidate_ids_PC
            )
        start = stop
    return torch.tensor(own_R), torch.tensor(candidates_RC)


def _split(
    batch: Sequence[Prefill],
    ids_RK: np.ndarray,
    logprobs_RK: np.ndarray,
    own_logprobs_R: np.ndarray,
    candidate_logprobs_RC: np.ndarray,
) -> list[Distributions]:
    found: list[Distributions] = []
    start = 0
    for prefill in batch:
        rows = slice(start, start + len(prefill.positions_P))
        start = rows.stop
        wanted = prefill.candidate_ids_PC
        candidates = None
        if wanted is not None:
            values = candidate_logprobs_RC[rows, : wanted.shape[1]]
            candidates = np.where(wanted >= 0, values, MISSING).astype(np.float32)
        found.append(
            Distributions(
                ids_PK=ids_RK[rows, : prefill.top_k],
                logprobs_PK=logprobs_RK[rows, : prefill.top_k],
                own_logprobs_P=own_logprobs_R[rows],
                candidate_logprobs_PC=candidates,
            )
        )
    return found


def _hidden(model: Any, ids_BL: Tensor) -> Tensor:
    """`[B, L, H]`; without a mask, because causal attention never looks at padding on the right."""
    return model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state


def _head(model: Any) -> nn.Linear:
    return model.get_output_embeddings()
