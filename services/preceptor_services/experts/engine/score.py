"""Scoring prefixes with a causal language model: one prefill, no sampling, no gradient.

For each query the model reads context and response once. At each queried position it returns
log q(. | context, response before t) in full precision: the K best entries, the student's own token
and any candidate ids, all normalised over every row of the head. Index convention as in
`schemas.py`: entry t is the distribution over response token t given everything before it, so it is
read from the hidden state one place earlier.

Left out: logit post-processing such as soft-capping, which `scorer_of` refuses, and a cache of
keys and values between calls: tokens are shared only within a call.

Example:
    scorer = scorer_of(model, vocab_size=261)
    prefill = Prefill(context_ids=context, response_ids=response, positions_P=np.arange(3), top_k=8)
    [distributions] = score(scorer, [prefill], vocab_size=261)

Dimensions: R rows (queried positions of all prefills of a pass), P those of one prefill, K entries,
A requested ids: the own token and C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.sdk.answers import Distributions
from preceptor_services.experts.engine.budget import DEFAULT_BUDGET, Budget
from preceptor_services.experts.engine.head import Entries, is_swept, read_head
from preceptor_services.experts.engine.models import Scorer
from preceptor_services.experts.engine.prefill import Prefill
from preceptor_services.experts.engine.side_by_side import side_by_side


def score(
    scorer: Scorer,
    prefills: Sequence[Prefill],
    *,
    vocab_size: int,
    budget: Budget = DEFAULT_BUDGET,
) -> list[Distributions]:
    """Distributions of a model at every queried position.

    On one machine and with the same number of threads, a prefill gets the same bits. On a CPU they
    do not depend on the other prefills of the call (for packed decoders whose layers process each
    token separately, so not for a mixture of experts). On a GPU they are equal for equal calls.

    Args:
        scorer: The model, as `scorer_of` made it.
        prefills: Sequences with at least one token of context each.
        vocab_size: Ids below it may be entries.
        budget: Bounds of the work in model and head at a time.

    Returns:
        One `Distributions` per prefill, log-probs as float32.

    Raises:
        ValueError: A prefill has no context, so no hidden state predicts its first token.
    """
    for index, prefill in enumerate(prefills):
        if not len(prefill.context_ids):
            raise ValueError(f"prefills[{index}].context_ids: is empty")
    if not prefills:
        return []
    sequences = [prefill.tokens() for prefill in prefills]
    threads = torch.get_num_threads() if is_swept(scorer) else 1
    found: dict[int, Distributions] = {}

    def hidden(members: list[int]) -> Tensor:
        places = [prefills[i].places() for i in members]
        return scorer.hidden([sequences[i] for i in members], places)

    with torch.inference_mode():
        passes = scorer.plan(sequences, _tokens_of_a_pass(sequences, budget, threads))
        for start in range(0, len(passes), threads):
            together = passes[start : start + threads]
            members = [index for one in together for index in one]
            batch = [prefills[i] for i in members]
            entries = read_head(
                scorer,
                torch.cat(side_by_side(hidden, together)),
                _asked_ids(batch).to(scorer.device),
                # The largest top_k of the prefills; the others use the first entries of these,
                # since entries are in descending order.
                top_k=min(max(prefill.top_k for prefill in batch), vocab_size),
                vocab_size=vocab_size,
                max_logits=budget.max_logits,
            )
            found.update(zip(members, _split(batch, entries), strict=True))
    return [found[index] for index in range(len(prefills))]


def _tokens_of_a_pass(sequences: Sequence[np.ndarray], budget: Budget, threads: int) -> int:
    """Tokens per pass, small enough for one pass per thread where the sequences allow it."""
    if threads == 1:
        return budget.max_tokens
    lengths = [len(sequence) for sequence in sequences]
    # A pass is closed when the next sequence does not fit; at worst it is short by the length of
    # that sequence less one. With this much extra room every pass has an equal share, and no thread
    # gets a second pass while the others wait.
    share = sum(lengths) // threads + max(lengths) - 1
    return min(share, max(1, budget.max_tokens // threads))


def _asked_ids(batch: Sequence[Prefill]) -> Tensor:
    """`[R, 1 + C]` the student's own token and the candidates of each row."""
    width = max(prefill.num_candidates for prefill in batch)
    asked_RA = np.full((sum(len(p.positions_P) for p in batch), 1 + width), -1, np.int64)
    start = 0
    for prefill in batch:
        stop = start + len(prefill.positions_P)
        # The own token is requested in every row: it is often outside the k best, and objectives on
        # sampled tokens need its exact log-prob.
        asked_RA[start:stop, 0] = prefill.response_ids[prefill.positions_P]
        if prefill.candidate_ids_PC is not None:
            asked_RA[start:stop, 1 : 1 + prefill.num_candidates] = prefill.candidate_ids_PC
        start = stop
    return torch.tensor(asked_RA)


def _split(batch: Sequence[Prefill], entries: Entries) -> list[Distributions]:
    ids_RK = entries.ids_RK.cpu().numpy()
    logprobs_RK = entries.logprobs_RK.cpu().numpy()
    asked_logprobs_RA = entries.asked_logprobs_RA.cpu().numpy()
    found: list[Distributions] = []
    start = 0
    for prefill in batch:
        rows = slice(start, start + len(prefill.positions_P))
        start = rows.stop
        wanted_PC = prefill.candidate_ids_PC
        candidates_PC = None
        if wanted_PC is not None:
            values = asked_logprobs_RA[rows, 1 : 1 + prefill.num_candidates]
            candidates_PC = np.where(wanted_PC >= 0, values, MISSING).astype(np.float32)
        found.append(
            Distributions(
                ids_PK=ids_RK[rows, : prefill.top_k],
                logprobs_PK=logprobs_RK[rows, : prefill.top_k],
                own_logprobs_P=asked_logprobs_RA[rows, 0],
                candidate_logprobs_PC=candidates_PC,
            )
        )
    return found
