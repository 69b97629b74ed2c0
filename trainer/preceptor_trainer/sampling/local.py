"""Generation in the trainer's own process: the local sampler.

    >>> sampler = LocalSampler(model, end_ids={257}, pad_id=256)
    >>> generations = sampler.sample([ids] * 8, SamplingParams(), torch.Generator().manual_seed(0))

Made for many short responses on a CPU. Equal prompts are read once, and their keys and values are
shared by their samples (`decoding.py`); finished rows leave the batch.

Every response has random numbers of its own, drawn before anything else and turned into tokens by
inverting the cumulative distribution. So a response does not depend on which others share its
batch, beyond rounding. Left out: beams, penalties, logit processors; models
whose attention has a window, soft-capped scores or sinks are refused.

Dimensions: B responses in flight, U different contexts, N positions so far, Q query positions, T
response positions, F forced tokens, V vocabulary.
"""

# pyright: reportUnknownMemberType=false
# (transformers is typed in part)
from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from preceptor_trainer.sampling.decode_cache import DecodeCache, decode_attention
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Generation

ATTENTION = "preceptor-decode"
MAX_ROWS = 512  # rows in flight: beyond this, longer batches gain nothing on a CPU
COMPACT_BELOW = 0.75  # rebuild the batch when fewer rows than this are still running


class LocalSampler:
    """Samples from a causal language model that stays the caller's: weights are shared."""

    def __init__(self, model: nn.Module, *, end_ids: Collection[int], pad_id: int) -> None:
        """Samples with `model`.

        Args:
            model: A causal language model of transformers.
            end_ids: A response ends with the first of these that is drawn.
            pad_id: Any id: padding is masked.
        """
        # The modules are copied and the parameters shared, so that another attention can be set
        # here while the caller's model keeps its own; updates in place are seen at once.
        shared = {id(p): p for p in model.parameters()} | {id(b): b for b in model.buffers()}
        self._model = cast(PreTrainedModel, copy.deepcopy(model, shared).eval())
        AttentionInterface.register(ATTENTION, decode_attention)
        self._model.set_attn_implementation(ATTENTION)
        self._end_ids = frozenset(end_ids)
        self._ends = torch.tensor(sorted(self._end_ids))
        self._pad_id = pad_id

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        generator: torch.Generator,
        forced_prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[Generation]:
        """Draws one response to each prompt; repeat a prompt for several.

        Args:
            prompts: Token ids of each context, not empty.
            params: How tokens are drawn.
            generator: The only source of randomness; the same state gives the same responses.
            forced_prefixes: Response tokens already given, one list (maybe empty) a prompt.

        Returns:
            Generations in the order of the prompts.

        Raises:
            ValueError: A prompt is empty, or the numbers of prompts and prefixes differ.
        """
        prefixes = forced_prefixes or [[] for _ in prompts]
        if len(prefixes) != len(prompts):
            raise ValueError(f"forced_prefixes: {len(prefixes)} for {len(prompts)} prompts")
        for index, prompt in enumerate(prompts):
            if len(prompt) == 0:
                raise ValueError(f"prompts[{index}] is empty")
        # All at once and by row: what a response draws does not depend on how many steps its
        # neighbours take. In float64, because 24 bits cannot tell apart the rare ids of a large
        # vocabulary.
        uniforms_NT = torch.rand(
            len(prompts), params.max_new_tokens, generator=generator, dtype=torch.float64
        )
        contexts = [(tuple(p), tuple(f)) for p, f in zip(prompts, prefixes, strict=True)]
        # neighbours of one length pad little, and equal contexts meet
        order = sorted(range(len(contexts)), key=lambda i: (_length(contexts[i]), contexts[i]))
        results: dict[int, Generation] = {}
        for start in range(0, len(order), MAX_ROWS):
            chunk = order[start : start + MAX_ROWS]
            drawn = self._sample_chunk([contexts[i] for i in chunk], params, uniforms_NT[chunk])
            results.update(zip(chunk, drawn, strict=True))
        return [results[index] for index in range(len(contexts))]

    def _sample_chunk(
        self,
        contexts: list[tuple[tuple[int, ...], tuple[int, ...]]],
        params: SamplingParams,
        uniforms_BT: Tensor,
    ) -> list[Generation]:
        groups = [(context, len(list(same))) for context, same in groupby(contexts)]
        counts_U = torch.tensor([count for _, count in groups])
        # On the left: the last token of every context is then in the last column, and responses
        # grow from there without gaps.
        ids_UN, visible_UN = _left_pad([p + f for (p, f), _ in groups], self._pad_id)
        cache = DecodeCache(room=params.max_new_tokens)
        # Logits of the positions before each forced token, and of the one that the first draw
        # needs; those of the rest of the prompt would be for nothing.
        keep = 1 + max(len(f) for (_, f), _ in groups)
        logits_UQV = self._forward(ids_UN, visible_UN, cache, keep)
        forced = [
            _forced_logprobs(logits_QV, f, params.temperature)
            for logits_QV, ((_, f), _) in zip(logits_UQV, groups, strict=True)
        ]
        rows_B = torch.repeat_interleave(torch.arange(len(groups)), counts_U)
        cache.branch(rows_B)
        tokens_BT, logprobs_BT = self._decode(
            logits_UQV[rows_B, -1], visible_UN[rows_B], cache, params, uniforms_BT
        )
        return [
            self._generation(
                tokens_T, logprobs_T, np.asarray(contexts[b][1], np.int32), forced[int(rows_B[b])]
            )
            for b, (tokens_T, logprobs_T) in enumerate(zip(tokens_BT, logprobs_BT, strict=True))
        ]

    def _decode(
        self,
        logits_BV: Tensor,
        visible_BN: Tensor,
        cache: DecodeCache,
        params: SamplingParams,
        uniforms_BT: Tensor,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Draws until every row ended; returns `[B, T]` tokens, -1 after the end, and log-probs."""
        num_rows, num_steps = uniforms_BT.shape
        tokens_BT = np.full((num_rows, num_steps), -1, np.int32)
        logprobs_BT = np.zeros((num_rows, num_steps), np.float32)
        rows = torch.arange(num_rows)  # which response each row of the batch is
        running = torch.ones(num_rows, dtype=torch.bool)
        for step in range(num_steps):
            token_B, logprob_B = draw(logits_BV, params, uniforms_BT[rows, step])
            where = rows[running].numpy()
            tokens_BT[where, step] = token_B[running].numpy()
            logprobs_BT[where, step] = logprob_B[running].numpy()
            # The end token itself is part of the response: the student chose it, and answers for
            # it.
            running &= ~torch.isin(token_B, self._ends)
            num_running = int(running.sum())
            if num_running == 0 or step + 1 == num_steps:
                break
            # Not at every end: to move the caches costs about as much as to carry a few idle rows.
            if num_running < COMPACT_BELOW * len(rows):
                cache.select(running.nonzero()[:, 0])
                rows, token_B, visible_BN = rows[running], token_B[running], visible_BN[running]
                running = torch.ones(num_running, dtype=torch.bool)
            visible_BN = nn.functional.pad(visible_BN, (0, 1), value=True)
            logits_BV = self._forward(token_B[:, None], visible_BN, cache, 1)[:, -1]
        return tokens_BT, logprobs_BT

    def _forward(self, ids_BQ: Tensor, visible_BN: Tensor, cache: DecodeCache, keep: int) -> Tensor:
        """Logits `[B, keep, V]` in float32 of the last `keep` positions.

        `visible_BN` covers all positions so far, these included; the padding is on the left, so
        positions count the visible ones.
        """
        num_queries, num_keys = ids_BQ.shape[1], visible_BN.shape[1]
        # The queries are the last positions, so the diagonal is shifted by the keys before them.
        causal_QN = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
        # Counted without padding, so that rotations are those of the unpadded sequence; in the
        # padding itself the count is -1.
        positions_BN = (visible_BN.cumsum(1) - 1).clamp_min(0)
        output: Any = self._model(
            input_ids=ids_BQ,
            attention_mask=(causal_QN & visible_BN[:, None, :])[:, None],
            position_ids=positions_BN[:, -num_queries:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
            # Once more by another name: a layer hands further arguments down to its attention
            # function, but not its cache.
            decode_cache=cache,
        )
        # Log-probs of 16-bit logits would be off by hundredths of a nat, which reads as a stale
        # policy.
        return output.logits.float()

    def _generation(
        self,
        tokens_T: npt.NDArray[np.int32],
        logprobs_T: npt.NDArray[np.float32],
        forced_F: npt.NDArray[np.int32],
        forced_logprobs_F: npt.NDArray[np.float32],
    ) -> Generation:
        length = int((tokens_T >= 0).sum())
        return Generation(
            response_ids=np.concatenate([forced_F, tokens_T[:length]]),
            logprobs=np.concatenate([forced_logprobs_F, logprobs_T[:length]]),
            finish_reason="stop" if int(tokens_T[length - 1]) in self._end_ids else "length",
            num_forced=len(forced_F),
        )


def draw(logits_BV: Tensor, params: SamplingParams, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Draws a token a row by inversion.

    Args:
        logits_BV: `[B, V]` float32.
        params: Temperature and truncation.
        uniform_B: `[B]` float64 in [0, 1).

    Returns:
        Tokens `[B]` and their log-probs `[B]` under the truncated distribution.
    """
    # Temperature first, as servers do: what is cut off is cut by the mass that is drawn from.
    logprobs_BV = truncate((logits_BV / params.temperature).log_softmax(-1), params)
    # In float64: added up in float32, a quarter of 150,000 random ids leave the sum as it was, and
    # could never be drawn.
    cumulative_BV = logprobs_BV.exp().cumsum(-1, dtype=torch.float64)
    # scaled by the last entry, so that rounding never asks for more mass than there is
    threshold_B = uniform_B[:, None] * cumulative_BV[:, -1:]
    # right=True: the first id whose sum is above the threshold, so that one of probability 0 is
    # never drawn, not even by a uniform of exactly 0.
    token_B1 = torch.searchsorted(cumulative_BV, threshold_B, right=True)
    # Rounding may bring the threshold up to the whole mass, above which there is no id.
    token_B1 = token_B1.clamp_max(logits_BV.shape[-1] - 1)
    return token_B1[:, 0], logprobs_BV.gather(1, token_B1)[:, 0]


def truncate(logprobs_BV: Tensor, params: SamplingParams) -> Tensor:
    """Applies top-k, then top-p, and renormalises; dropped tokens have minus infinity."""
    if params.top_k == 0 and params.top_p == 1.0:
        return logprobs_BV
    # Stable: of equal log-probs the lower id is kept, on every machine.
    sorted_BV, order_BV = logprobs_BV.sort(dim=-1, descending=True, stable=True)
    if params.top_k:
        sorted_BV[:, params.top_k :] = -torch.inf
        # Renormalised in between: top-p is a share of what top-k has left.
        sorted_BV = sorted_BV.log_softmax(-1)
    mass_before_BV = sorted_BV.exp().cumsum(-1) - sorted_BV.exp()
    # By the mass before a token: the one that crosses the bound is kept.
    beyond_BV = mass_before_BV >= params.top_p
    # Something must be left to draw, whatever rounding says.
    beyond_BV[:, 0] = False
    sorted_BV = sorted_BV.masked_fill(beyond_BV, -torch.inf).log_softmax(-1)
    return torch.empty_like(sorted_BV).scatter_(1, order_BV, sorted_BV)


def _length(context: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
    return len(context[0]) + len(context[1])


def _left_pad(rows: list[tuple[int, ...]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids `[U, N]` and which of them are real."""
    longest = max(len(row) for row in rows)
    ids_UN = torch.tensor([(pad_id,) * (longest - len(row)) + row for row in rows])
    starts_U = torch.tensor([longest - len(row) for row in rows])
    return ids_UN, torch.arange(longest)[None] >= starts_U[:, None]


def _forced_logprobs(
    logits_QV: Tensor, forced: tuple[int, ...], temperature: float
) -> npt.NDArray[np.float32]:
    """Log-probs `[F]` of forced tokens, from the logits of the last `F + 1` positions."""
    if not forced:
        return np.zeros(0, np.float32)
    # The temperature but no truncation: a forced token may lie outside the kept set, where its
    # log-prob would be minus infinity.
    before_FV = logits_QV[-1 - len(forced) : -1] / temperature
    picked_F = before_FV.log_softmax(-1).gather(1, torch.tensor(forced)[:, None])[:, 0]
    return picked_F.numpy()
