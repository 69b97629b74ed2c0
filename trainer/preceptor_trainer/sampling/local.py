"""Generation in the trainer's process: the local sampler.

    >>> sampler = LocalSampler(model, end_ids={257}, pad_id=256)
    >>> generations = sampler.sample([ids] * 8, SamplingParams(), torch.Generator().manual_seed(0))

It is made for many short responses on a CPU. Equal prompts are computed once, and their keys and
values are shared by their samples (`decode_cache.py`); finished rows are removed from the batch. On
a CPU a large model multiplies few rows in an order of their own (`few_rows.py`).
What all prompts begin with, such as a system message, a large model reads once.

Every response has its own random numbers, drawn at the start and converted to tokens by inverting
the cumulative distribution (`draw.py`). So a response does not depend on the other responses of its
batch, except for rounding. Left out: beams, penalties, logit processors; models whose attention has
soft-capped scores or sinks are refused.

Ids beyond the vocabulary, the padding of a head, are never drawn. Log-probs are normalised over all
rows of the head, as in the update.

Dimensions: B responses in flight, U different contexts, N positions so far, Q query positions, T
response positions, F forced tokens, V vocabulary.
"""

# pyright: reportUnknownMemberType=false
# (transformers has incomplete types)
from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from itertools import groupby, takewhile
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from preceptor_trainer.sampling.decode_cache import DecodeCache, decode_attention
from preceptor_trainer.sampling.draw import draw
from preceptor_trainer.sampling.few_rows import take_few_rows
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Generation

ATTENTION = "preceptor-decode"
MAX_ROWS = 512  # rows in flight: beyond this, longer batches gain nothing on a CPU
LARGE = 1 << 23
"""Parameters from which a token costs more than what saves it: moving a row's cache, another
pass. Smaller models keep the batches, and with them the rounding, that they have without."""
COMPACT_BELOW = 0.75  # rebuild the batch when fewer rows than this are still running
COMPACT_LARGE_BELOW = 0.9
WORTH_A_PASS = 64  # tokens; a pass reads all weights, whatever the number of its tokens

_Finished: TypeAlias = Callable[[int, npt.NDArray[np.int32], npt.NDArray[np.float32]], None]


class LocalSampler:
    """Samples from a causal language model of the caller, sharing its weights."""

    def __init__(
        self,
        model: nn.Module,
        *,
        end_ids: Collection[int],
        pad_id: int,
        vocab_size: int | None = None,
        large: int = LARGE,
    ) -> None:
        """Samples with `model`.

        Args:
            model: A causal language model of transformers.
            end_ids: A response ends with the first drawn token among these.
            pad_id: Id of padding; any id, since padding is masked.
            vocab_size: Only ids below it are drawn; all rows of the head where absent.
            large: Number of parameters from which a model is large.
        """
        # Modules are copied and parameters shared: the copy gets another attention function, and
        # the caller's model keeps its own. Updates in place take effect here too.
        shared = {id(p): p for p in model.parameters()} | {id(b): b for b in model.buffers()}
        self._model = cast(PreTrainedModel, copy.deepcopy(model, shared).eval())
        AttentionInterface.register(ATTENTION, decode_attention)
        self._model.set_attn_implementation(ATTENTION)
        self._end_ids = frozenset(end_ids)
        self._device: torch.device = self._model.device
        self._ends = torch.tensor(sorted(self._end_ids), device=self._device)
        self._pad_id = pad_id
        self._vocab_size = vocab_size
        config: Any = self._model.config.get_text_config()
        self._max_positions: int | None = getattr(config, "max_position_embeddings", None)
        self._is_large = sum(p.numel() for p in model.parameters()) >= large
        on_cpu = self._device.type == "cpu" and self._model.dtype == torch.float32
        if self._is_large and on_cpu:
            take_few_rows(self._model)
        # A window counts columns, and padding is between a shared beginning and what follows it.
        self._shares_beginnings = getattr(config, "sliding_window", None) is None

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        generator: torch.Generator,
        forced_prefixes: Sequence[Sequence[int]] | None = None,
        *,
        on_finished: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Draws one response to each prompt; repeat a prompt for several.

        Args:
            prompts: Token ids of each context, not empty.
            params: How tokens are drawn.
            generator: The only source of randomness; the same state gives the same responses.
            forced_prefixes: Given first response tokens, one list (possibly empty) per prompt.
            on_finished: Takes the number of a prompt and its response as soon as an end token was
                drawn, while others are still drawn; called in this thread.

        Returns:
            Generations in the order of the prompts.

        Raises:
            ValueError: A prompt is empty or too long for the model's positions, or the numbers of
                prompts and prefixes differ.
        """
        prefixes = forced_prefixes or [[] for _ in prompts]
        if len(prefixes) != len(prompts):
            raise ValueError(f"forced_prefixes: {len(prefixes)} for {len(prompts)} prompts")
        for index, (prompt, prefix) in enumerate(zip(prompts, prefixes, strict=True)):
            if len(prompt) == 0:
                raise ValueError(f"prompts[{index}] is empty")
            self._check_length(index, len(prompt) + len(prefix), params.max_new_tokens)
        # Drawn together and per row, so that a response does not depend on the number of steps of
        # the others. In float64, because 24 bits cannot distinguish the rare ids of a large
        # vocabulary.
        uniforms_NT = torch.rand(
            len(prompts),
            params.max_new_tokens,
            generator=generator,
            dtype=torch.float64,
            device=generator.device,
        )
        contexts = [(tuple(p), tuple(f)) for p, f in zip(prompts, prefixes, strict=True)]
        # neighbours of equal length need little padding, and equal contexts are adjacent
        order = sorted(range(len(contexts)), key=lambda i: (_length(contexts[i]), contexts[i]))
        results: dict[int, Generation] = {}
        for start in range(0, len(order), MAX_ROWS):
            chunk = order[start : start + MAX_ROWS]
            drawn = self._sample_chunk(
                [contexts[i] for i in chunk],
                params,
                uniforms_NT[chunk],
                None if on_finished is None else _numbered(on_finished, chunk),
            )
            results.update(zip(chunk, drawn, strict=True))
        return [results[index] for index in range(len(contexts))]

    def _sample_chunk(
        self,
        contexts: list[tuple[tuple[int, ...], tuple[int, ...]]],
        params: SamplingParams,
        uniforms_BT: Tensor,
        on_finished: Callable[[int, Generation], None] | None,
    ) -> list[Generation]:
        groups = [(context, len(list(same))) for context, same in groupby(contexts)]
        counts_U = torch.tensor([count for _, count in groups], device=self._device)
        cache = DecodeCache(room=params.max_new_tokens)
        num_shared = self._num_shared([prompt for (prompt, _), _ in groups])
        if num_shared:
            self._read_shared(contexts[0][0][:num_shared], cache)
        # Padded on the left: the last token of every context is then in the last column, and
        # responses follow without gaps.
        rest = [(p + f)[num_shared:] for (p, f), _ in groups]
        ids_UN, visible_UN = _left_pad(rest, self._pad_id, self._device)
        visible_UN = nn.functional.pad(visible_UN, (num_shared, 0), value=True)
        # Logits of the positions before each forced token, and of the position of the first draw;
        # those of the rest of the prompt are not needed.
        keep = 1 + max(len(f) for (_, f), _ in groups)
        logits_UQV = self._forward(ids_UN, visible_UN, cache, keep)
        forced = [
            _forced_logprobs(logits_QV, f, params.temperature)
            for logits_QV, ((_, f), _) in zip(logits_UQV, groups, strict=True)
        ]
        numbers_U = torch.arange(len(groups), device=self._device)
        rows_B = torch.repeat_interleave(numbers_U, counts_U)
        cache.branch(rows_B)
        context_of_B = cast("list[int]", rows_B.tolist())

        def generation(
            b: int, tokens_T: npt.NDArray[np.int32], logprobs_T: npt.NDArray[np.float32]
        ) -> Generation:
            forced_F = np.asarray(contexts[b][1], np.int32)
            return self._generation(tokens_T, logprobs_T, forced_F, forced[context_of_B[b]])

        def finished(
            b: int, tokens_T: npt.NDArray[np.int32], logprobs_T: npt.NDArray[np.float32]
        ) -> None:
            assert on_finished is not None
            on_finished(b, generation(b, tokens_T, logprobs_T))

        tokens_BT, logprobs_BT = self._decode(
            logits_UQV[rows_B, -1],
            visible_UN[rows_B],
            cache,
            params,
            uniforms_BT.to(self._device),
            finished if on_finished is not None else None,
        )
        return [
            generation(b, tokens_T, logprobs_T)
            for b, (tokens_T, logprobs_T) in enumerate(zip(tokens_BT, logprobs_BT, strict=True))
        ]

    def _num_shared(self, prompts: Sequence[tuple[int, ...]]) -> int:
        """How many first tokens of all prompts are read once; 0 where that saves too little."""
        if not (self._is_large and self._shares_beginnings):
            return 0
        pairs = zip(min(prompts), max(prompts), strict=False)
        num_equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        # Not the last token of a prompt, whose logits are those of a first draw.
        num_shared = min(num_equal, min(len(prompt) for prompt in prompts) - 1)
        return num_shared if num_shared * (len(prompts) - 1) >= WORTH_A_PASS else 0

    def _read_shared(self, ids: tuple[int, ...], cache: DecodeCache) -> None:
        ids_1N = torch.tensor([ids], device=self._device)
        self._forward(ids_1N, torch.ones_like(ids_1N, dtype=torch.bool), cache, 1)

    def _decode(
        self,
        logits_BV: Tensor,
        visible_BN: Tensor,
        cache: DecodeCache,
        params: SamplingParams,
        uniforms_BT: Tensor,
        finished: _Finished | None,
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Draws until every row ended; returns `[B, T]` tokens, -1 after the end, and log-probs."""
        num_rows, num_steps = uniforms_BT.shape
        tokens_BT = np.full((num_rows, num_steps), -1, np.int32)
        logprobs_BT = np.zeros((num_rows, num_steps), np.float32)
        rows = torch.arange(num_rows, device=self._device)  # the response of each row of the batch
        running = torch.ones(num_rows, dtype=torch.bool, device=self._device)
        compact_below = COMPACT_LARGE_BELOW if self._is_large else COMPACT_BELOW
        for step in range(num_steps):
            token_B, logprob_B = draw(logits_BV, params, uniforms_BT[rows, step], self._vocab_size)
            where = rows[running].cpu().numpy()
            tokens_BT[where, step] = token_B[running].cpu().numpy()
            logprobs_BT[where, step] = logprob_B[running].cpu().numpy()
            # The end token is part of the response: the student chose it, so it gets credit too.
            ended = torch.isin(token_B, self._ends)
            if finished is not None:
                for b in cast("list[int]", rows[running & ended].tolist()):
                    finished(b, tokens_BT[b], logprobs_BT[b])
            running &= ~ended
            num_running = int(running.sum())
            if num_running == 0 or step + 1 == num_steps:
                break
            # Not after every end: moving the caches costs about as much as computing a few idle
            # rows.
            if num_running < compact_below * len(rows):
                cache.select(running.nonzero()[:, 0])
                rows, token_B, visible_BN = rows[running], token_B[running], visible_BN[running]
                running = torch.ones(num_running, dtype=torch.bool, device=self._device)
            visible_BN = nn.functional.pad(visible_BN, (0, 1), value=True)
            logits_BV = self._forward(token_B[:, None], visible_BN, cache, 1)[:, -1]
        return tokens_BT, logprobs_BT

    def _forward(self, ids_BQ: Tensor, visible_BN: Tensor, cache: DecodeCache, keep: int) -> Tensor:
        """Logits `[B, keep, V]` in float32 of the last `keep` positions.

        `visible_BN` covers all positions so far, these included; the padding is on the left, so
        positions count the visible ones.
        """
        num_queries, num_keys = ids_BQ.shape[1], visible_BN.shape[1]
        # The queries are the last positions, so the diagonal is shifted by the earlier keys.
        every_QN = torch.ones(num_queries, num_keys, dtype=torch.bool, device=self._device)
        causal_QN = every_QN.tril(num_keys - num_queries)
        # Counted without padding, so that rotations equal those of the unpadded sequence; in
        # padding the count is -1.
        positions_BN = (visible_BN.cumsum(1) - 1).clamp_min(0)
        output: Any = self._model(
            input_ids=ids_BQ,
            attention_mask=(causal_QN & visible_BN[:, None, :])[:, None],
            position_ids=positions_BN[:, -num_queries:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
            # Passed again by another name: a layer passes further arguments to its attention
            # function, but not its cache.
            decode_cache=cache,
        )
        # Log-probs of 16-bit logits would be wrong by hundredths of a nat, which looks like a stale
        # policy.
        return output.logits.float()

    def _check_length(self, index: int, num_given: int, max_new_tokens: int) -> None:
        # Beyond its positions a model computes on, and its responses are worth nothing.
        most = self._max_positions
        if most is not None and num_given + max_new_tokens > most:
            raise ValueError(
                f"prompts[{index}]: {num_given} tokens and a response of {max_new_tokens} exceed "
                f"the model's {most} positions; set max_prompt, or lower max_new_tokens"
            )

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


def _numbered(
    on_finished: Callable[[int, Generation], None], numbers: Sequence[int]
) -> Callable[[int, Generation], None]:
    """`on_finished` for rows of a chunk, which are these of the whole."""
    return lambda row, generation: on_finished(numbers[row], generation)


def _length(context: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
    return len(context[0]) + len(context[1])


def _left_pad(
    rows: list[tuple[int, ...]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids `[U, N]`, and a mask of the real ones."""
    longest = max(len(row) for row in rows)
    padded = [(pad_id,) * (longest - len(row)) + row for row in rows]
    starts_U = torch.tensor([longest - len(row) for row in rows], device=device)
    places_N = torch.arange(longest, device=device)
    return torch.tensor(padded, device=device), places_N[None] >= starts_U[:, None]


def _forced_logprobs(
    logits_QV: Tensor, forced: tuple[int, ...], temperature: float
) -> npt.NDArray[np.float32]:
    """Log-probs `[F]` of forced tokens, from the logits of the last `F + 1` positions."""
    if not forced:
        return np.zeros(0, np.float32)
    # With temperature but without truncation: a forced token may be outside the kept set, where its
    # log-prob would be minus infinity.
    before_FV = logits_QV[-1 - len(forced) : -1] / temperature
    forced_F = torch.tensor(forced, device=logits_QV.device)
    picked_F = before_FV.log_softmax(-1).gather(1, forced_F[:, None])[:, 0]
    return picked_F.cpu().numpy()
