"""Answers that cannot be right: the check that refuses each, and how it comes about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.schemas import PrefixAnswer

from ..honest import VOCAB

CANDIDATES = np.array([[0, 1], [2, -1], [3, 4], [5, 6], [7, 8]], np.int32)

Change = Callable[[PrefixAnswer], dict[str, Any]]


def edited(array: np.ndarray | None, at: Any, value: Any) -> np.ndarray:
    assert array is not None
    copy = array.copy()
    copy[at] = value
    return copy


def logprobs(at: Any, value: Any) -> Change:
    return lambda a: {"logprobs_PK": edited(a.logprobs_PK, at, value)}


def rolled(*names: str) -> Change:
    return lambda a: {name: np.roll(getattr(a, name), 1, axis=0) for name in names}


def over_one(a: PrefixAnswer) -> dict[str, Any]:
    flat = np.full_like(a.logprobs_PK, -1.0)
    return {"logprobs_PK": flat, "tail_P": np.zeros_like(a.tail_P)}


CORRUPTIONS: dict[str, tuple[str, Change]] = {
    "another vocabulary": ("vocab_fingerprint", lambda a: {"vocab_fingerprint": "cd" * 32}),
    "an undeclared kind": ("kind", lambda a: {"kind": "point"}),
    "temperature 0.7": ("temperature", lambda a: {"temperature": 0.7}),
    "weights that changed": (
        "weights",
        lambda a: {"weights_before": "p/l/1", "weights_after": "p/l/2"},
    ),
    "a row too few": ("mask_P", lambda a: {"mask_P": a.mask_P[:-1]}),
    "a row of ids too many": ("ids_PK", lambda a: {"ids_PK": np.repeat(a.ids_PK, 2, axis=0)}),
    "ids without log-probs": ("logprobs_PK", lambda a: {"logprobs_PK": a.logprobs_PK[:, :-1]}),
    "tails cut off": ("tail_P", lambda a: {"tail_P": a.tail_P[:2]}),
    "own tokens shifted by one": ("token_ids_P", rolled("token_ids_P")),
    "another sibling's tokens": ("token_ids_P", lambda a: {"token_ids_P": a.token_ids_P[::-1]}),
    "more entries than cells": (
        "num_entries_P",
        lambda a: {"num_entries_P": edited(a.num_entries_P, 0, 9)},
    ),
    "a negative count": (
        "num_entries_P",
        lambda a: {"num_entries_P": edited(a.num_entries_P, 0, -1)},
    ),
    "no entry in a row with an opinion": (
        "num_entries_P",
        lambda a: {"num_entries_P": edited(a.num_entries_P, 1, 0)},
    ),
    "an id beyond the vocabulary": (
        "ids_PK",
        lambda a: {"ids_PK": edited(a.ids_PK, (0, 0), VOCAB)},
    ),
    "an empty cell counted as filled": (
        "ids_PK",
        lambda a: {"ids_PK": edited(a.ids_PK, (0, -1), -1)},
    ),
    "an id twice": ("ids_PK", lambda a: {"ids_PK": edited(a.ids_PK, (0, 1), a.ids_PK[0, 0])}),
    "a missing log-prob in a filled cell": ("logprobs_PK", logprobs((0, -1), MISSING)),
    "a positive log-prob": ("logprobs_PK", logprobs((0, 0), 0.5)),
    "entries in rising order": (
        "logprobs_PK",
        lambda a: {"logprobs_PK": a.logprobs_PK[:, ::-1], "ids_PK": a.ids_PK[:, ::-1]},
    ),
    "mass above one": ("mass", over_one),
    "log-probs all filled with 0.0": ("mass", lambda a: {"logprobs_PK": 0 * a.logprobs_PK}),
    "a negative tail": ("tail_P", lambda a: {"tail_P": edited(a.tail_P, 0, -0.1)}),
    "a tail of zero though mass is missing": ("tail_P", lambda a: {"tail_P": 0 * a.tail_P}),
    "probabilities at temperature 2": (
        "tail_P",
        lambda a: {"logprobs_PK": a.logprobs_PK / 2 - 3},
    ),
    "entries of the position before": ("own_logprobs_P", rolled("logprobs_PK", "ids_PK", "tail_P")),
    "own log-prob in a masked row": (
        "own_mask_P",
        lambda a: {"mask_P": edited(a.mask_P, 0, False)},
    ),
    "own log-prob missing": (
        "own_logprobs_P",
        lambda a: {"own_logprobs_P": edited(a.own_logprobs_P, 0, MISSING)},
    ),
    "own log-prob positive": (
        "own_logprobs_P",
        lambda a: {"own_logprobs_P": edited(a.own_logprobs_P, 0, 0.3)},
    ),
    "own log-probs filled with 0.0": (
        "own_logprobs_P",
        lambda a: {"own_logprobs_P": 0 * a.own_logprobs_P},
    ),
    "candidates of another shape": (
        "candidate_logprobs_PC",
        lambda a: {"candidate_logprobs_PC": np.repeat(CANDIDATES, 2, axis=1).astype(np.float32)},
    ),
    "candidates without a mask": ("candidate_logprobs_PC", lambda a: {"candidate_mask_PC": None}),
    "a positive candidate": (
        "candidate_logprobs_PC",
        lambda a: {"candidate_logprobs_PC": edited(a.candidate_logprobs_PC, (0, 0), 0.2)},
    ),
    "a candidate nobody asked for": (
        "candidate_mask_PC",
        lambda a: {
            "candidate_mask_PC": edited(a.candidate_mask_PC, (1, 1), True),
            "candidate_logprobs_PC": edited(a.candidate_logprobs_PC, (1, 1), -1.0),
        },
    ),
    "feedback that was not sent": ("used_feedback", lambda a: {"used_feedback": ("other",)}),
}  # fmt: skip
