"""The engine's interface to models: hidden states at wanted places, and blocks of logits.

A transformers decoder runs packed if its attention can be replaced and a trial gives the same
logits. Any other model runs on sequences padded on the right, since a causal model does not attend
to padding there. Both return the final hidden states only: `head.py` applies the head.

Dimensions: B sequences, L tokens of the longest, N packed tokens, R rows (positions asked), H of a
hidden state.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from preceptor_services.experts.engine.attention import ATTENTION, Unpackable
from preceptor_services.experts.engine.blocks import blocks_of, filled
from preceptor_services.experts.engine.packing import MIN_SHARED, pack, plan_passes

_log = logging.getLogger(__name__)
_HEAD_TOLERANCE: Final = 1e-3
_TRIAL_TOLERANCE: Final[dict[torch.dtype, float]] = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Tolerance relative to the largest logit. In 16 bits two orders of summation differ much more than
in 32 bits, but much less than the results of a model that mixes its sequences."""


class Scorer(Protocol):
    """A model, or several that answer as one, as used by `score`."""

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        ...

    @property
    def num_logits(self) -> int:
        """Rows of the head, padding of the vocabulary included."""
        ...

    @property
    def logits_dtype(self) -> torch.dtype:
        """Data type of the result of `logits`."""
        ...

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        """Indices of the sequences of each forward pass, of at most `max_tokens` tokens."""
        ...

    def hidden(self, sequences: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Tensor:
        """`[R, ...]` final hidden states at the wanted places of each sequence, in order."""
        ...

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """`[R, stop - start]` logits of these rows of the head."""
        ...


class _Decoder:
    """A causal language model of transformers and its linear head."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._head: nn.Linear = model.get_output_embeddings()

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def num_logits(self) -> int:
        return self._head.weight.shape[0]

    @property
    def logits_dtype(self) -> torch.dtype:
        return self._head.weight.dtype

    def logits(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        bias: Tensor | None = getattr(self._head, "bias", None)
        return nn.functional.linear(
            hidden, self._head.weight[start:stop], None if bias is None else bias[start:stop]
        )


class PaddedScorer(_Decoder):
    """Processes sequences as a batch, padded to the longest. For models that cannot be packed."""

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        """Puts sequences of similar length together; padding counts as tokens."""
        passes: list[list[int]] = []
        # Shortest first: each sequence added is the longest so far, to which all are padded.
        for index in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
            longest = len(sequences[index])
            if not passes or longest * (len(passes[-1]) + 1) > max_tokens:
                passes.append([])
            passes[-1].append(index)
        return passes

    def hidden(self, sequences: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Tensor:
        """`[R, H]`."""
        ids_BL = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
        for row, sequence in enumerate(sequences):
            ids_BL[row, : len(sequence)] = sequence
        # Without a mask: causal attention does not attend to padding on the right.
        states_BLH = self._model.base_model(
            input_ids=torch.tensor(ids_BL, device=self.device), use_cache=False
        ).last_hidden_state
        rows = np.repeat(np.arange(len(places)), [len(place) for place in places])
        return states_BLH[
            _indices(rows, self.device), _indices(np.concatenate(places), self.device)
        ]


class PackedScorer(_Decoder):
    """Processes packed sequences, with common prefixes once.

    Processed in blocks, which is the default on a CPU, the bits of a sequence do not depend on the
    other packed sequences.
    """

    def __init__(
        self, model: Any, *, min_shared: int = MIN_SHARED, in_blocks: bool | None = None
    ) -> None:
        super().__init__(model)
        self._min_shared = min_shared
        self._in_blocks = self.device.type == "cpu" if in_blocks is None else in_blocks
        model.set_attn_implementation(ATTENTION)
        if model.config._attn_implementation != ATTENTION:
            raise Unpackable("its attention cannot be replaced")

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        """Puts sequences with a common prefix together; shared tokens count once."""
        return plan_passes(sequences, max_tokens=max_tokens, min_shared=self._min_shared)

    def hidden(self, sequences: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Tensor:
        """`[R, H]`."""
        packed = pack(sequences, min_shared=self._min_shared)
        tokens_N, places_N = (_indices(x, self.device) for x in (packed.tokens_N, packed.places_N))
        if self._in_blocks:
            tokens_N, places_N = filled(tokens_N), filled(places_N)
        states_1NH = self._model.base_model(
            input_ids=tokens_N[None],
            position_ids=places_N[None],
            use_cache=False,
            packed=packed,
            blocks=blocks_of(packed.rows) if self._in_blocks else None,
        ).last_hidden_state
        wanted = [rows[place] for rows, place in zip(packed.rows, places, strict=True)]
        return states_1NH[0, _indices(np.concatenate(wanted), self.device)]


def scorer_of(model: Any, vocab_size: int) -> PackedScorer | PaddedScorer:
    """A scorer of `model`: packed if a trial shows that packing keeps its logits, else padded.

    Args:
        model: A causal language model of transformers, in `eval` mode. Packing replaces its
            attention for every caller.
        vocab_size: The trial uses ids below it.

    Raises:
        ValueError: Its logits are not a linear head applied to its last hidden state.
    """
    with torch.inference_mode():
        sequences = _trial_sequences(vocab_size)
        places = [np.arange(len(sequence)) for sequence in sequences]
        own = [_own_logits(model, sequence) for sequence in sequences]
        padded = PaddedScorer(model)
        # Checked first, and an error: without a linear head neither scorer would be right.
        _check_head(model, padded, sequences[0], own[0])
        before = model.config._attn_implementation
        try:
            # The trial shares every common prefix, also short ones, to test the tree.
            packed = PackedScorer(model, min_shared=1)
            found = packed.logits(packed.hidden(sequences, places), 0, packed.num_logits)
            _check_trial(torch.cat(own), found)
        except Exception as error:  # an unknown architecture may raise any error
            # The padded scorer needs the model's original attention.
            model.set_attn_implementation(before)
            _log.warning("%s runs padded, not packed: %s", type(model).__name__, error)
            return padded
    return PackedScorer(model)


def _trial_sequences(vocab_size: int) -> list[np.ndarray]:
    """Three sequences with common prefixes and one without, of different lengths."""
    long = np.arange(24) * 7 % vocab_size
    return [long, np.append(long[:9], 1), np.append(long[:9], [2, 3, 2]), long[5:16]]


def _own_logits(model: Any, sequence: np.ndarray) -> Tensor:
    ids = _indices(sequence, model.device)[None]
    return model(input_ids=ids, use_cache=False).logits[0].float()


def _check_head(model: Any, scorer: PaddedScorer, sequence: np.ndarray, own_LV: Tensor) -> None:
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise ValueError("model: its head is not linear")
    hidden_LH = scorer.hidden([sequence], [np.arange(len(sequence))])
    gap = (own_LV - scorer.logits(hidden_LH, 0, scorer.num_logits).float()).abs().max().item()
    # Written as `not <=`, so that NaN fails the check.
    if not gap <= _HEAD_TOLERANCE:
        raise ValueError(
            f"model: its logits differ by {gap:.1e} from the product of head and hidden state"
        )


def _check_trial(own: Tensor, found: Tensor) -> None:
    allowed = _TRIAL_TOLERANCE.get(found.dtype, 2**-4) * max(1.0, own.abs().max().item())
    gap = (own - found.float()).abs().max().item()
    # As above: NaN fails.
    if not gap <= allowed:
        raise Unpackable(f"packed sequences change its logits by {gap:.1e}")


def _indices(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)
