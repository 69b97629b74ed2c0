"""Models as the engine sees them: hidden states at wanted places, and blocks of logits.

A decoder of transformers runs packed where its attention can be exchanged and a trial shows that
it then says the same; any other runs on sequences padded on the right, which a causal model never
looks at. Both are asked for the final hidden states alone: the head belongs to `head.py`.

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
"""Of the largest logit. In 16 bits two orders of summation differ by far more than in 32, and
still by far less than a model that mixes its sequences."""


class Scorer(Protocol):
    """What `score` reads of a model, or of several that answer as one."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def num_logits(self) -> int:
        """Rows of the head, padding of the vocabulary included."""
        ...

    @property
    def logits_dtype(self) -> torch.dtype:
        """Of what `logits` gives."""
        ...

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        """Indices of the sequences that share a forward pass of at most so many tokens."""
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
    """Sequences side by side, padded to the longest. For models that cannot be packed."""

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        """Sequences of similar length together; the padding counts."""
        passes: list[list[int]] = []
        # Shortest first: lengths rise, so the sequence that joins is the one that all are padded
        # to.
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
        # Without a mask: causal attention never looks at padding on the right.
        states_BLH = self._model.base_model(
            input_ids=torch.tensor(ids_BL, device=self.device), use_cache=False
        ).last_hidden_state
        rows = np.repeat(np.arange(len(places)), [len(place) for place in places])
        return states_BLH[
            _indices(rows, self.device), _indices(np.concatenate(places), self.device)
        ]


class PackedScorer(_Decoder):
    """Sequences one after another, common beginnings once.

    Read in blocks, which they are on a CPU unless told otherwise, a sequence gets the same bits
    whatever it is packed with.
    """

    def __init__(
        self, model: Any, *, min_shared: int = MIN_SHARED, in_blocks: bool | None = None
    ) -> None:
        super().__init__(model)
        self._min_shared = min_shared
        self._in_blocks = self.device.type == "cpu" if in_blocks is None else in_blocks
        model.set_attn_implementation(ATTENTION)
        if model.config._attn_implementation != ATTENTION:
            raise Unpackable("its attention cannot be exchanged")

    def plan(self, sequences: Sequence[np.ndarray], max_tokens: int) -> list[list[int]]:
        """Sequences with a common beginning together; what they share counts once."""
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
    """`model` behind the engine: packed where a trial shows that it may be, else padded.

    Args:
        model: A causal language model of transformers, in `eval` mode. Packing exchanges its
            attention, for every caller.
        vocab_size: Ids below it may be tried.

    Raises:
        ValueError: Its log-probs are more than a linear head applied to its last hidden state.
    """
    with torch.inference_mode():
        sequences = _trial_sequences(vocab_size)
        places = [np.arange(len(sequence)) for sequence in sequences]
        own = [_own_logits(model, sequence) for sequence in sequences]
        padded = PaddedScorer(model)
        # First, and an error: without a linear head neither way would be right.
        _check_head(model, padded, sequences[0], own[0])
        before = model.config._attn_implementation
        try:
            # Every common beginning is shared in the trial, however short: it is to go through the
            # tree.
            packed = PackedScorer(model, min_shared=1)
            found = packed.logits(packed.hidden(sequences, places), 0, packed.num_logits)
            _check_trial(torch.cat(own), found)
        except Exception as error:  # whatever an unknown architecture makes of a packed sequence
            # The padded way needs the attention that the model came with.
            model.set_attn_implementation(before)
            _log.warning("%s is read padded, not packed: %s", type(model).__name__, error)
            return padded
    return PackedScorer(model)


def _trial_sequences(vocab_size: int) -> list[np.ndarray]:
    """Three that share beginnings and one that does not, of different lengths."""
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
    # Written this way round, because NaN is not below anything: it must fail the check.
    if not gap <= _HEAD_TOLERANCE:
        raise ValueError(f"model: its logits differ by {gap:.1e} from head times hidden state")


def _check_trial(own: Tensor, found: Tensor) -> None:
    allowed = _TRIAL_TOLERANCE.get(found.dtype, 2**-4) * max(1.0, own.abs().max().item())
    gap = (own - found.float()).abs().max().item()
    # As above: NaN fails.
    if not gap <= allowed:
        raise Unpackable(f"packed sequences change its logits by {gap:.1e}")


def _indices(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)
