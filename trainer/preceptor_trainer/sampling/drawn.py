"""Responses that another process draws: their seeds, checks, and form as the run uses them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import torch

from preceptor_clients.contract.errors import AnswerRefused
from preceptor_clients.contract.generation import Generated
from preceptor_trainer.sampling.sampler import Generation, SampleRequest

_MAX_SEED: Final = 2**31 - 1
_UNKNOWN: Final = np.float32(np.nan)


def seeds_of(request: SampleRequest) -> list[int]:
    """A seed for each prompt, drawn before anything is asked: no order of replies changes them."""
    size = (len(request.prompts),)
    return [int(seed) for seed in torch.randint(_MAX_SEED, size, generator=request.generator)]


def check_drawn(
    field: str, drawn: Generated, *, longest: int, vocab_size: int, end_ids: Collection[int]
) -> None:
    """Refuses a response that the policy cannot have written.

    Args:
        field: What an error names.
        drawn: The response.
        longest: Most tokens that were asked for.
        vocab_size: Ids of the student's vocabulary.
        end_ids: Tokens that end a response of the student.

    Raises:
        AnswerRefused: with the field and what is wrong.
    """
    ids, logprobs = drawn.response_ids, drawn.logprobs_T
    if not 1 <= len(ids) <= longest:
        raise AnswerRefused(f"{field}.response_ids", f"has {len(ids)} of 1 to {longest} tokens")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise AnswerRefused(f"{field}.response_ids", f"has ids outside [0, {vocab_size})")
    if len(logprobs) != len(ids) or not (logprobs <= 1e-3).all():
        raise AnswerRefused(f"{field}.logprobs_T", "is not one log-prob a token")
    stopped = int(ids[-1]) in end_ids
    if (drawn.finish_reason == "stop") != stopped:
        raise AnswerRefused(
            f"{field}.finish_reason",
            f"is {drawn.finish_reason!r} after the token {ids[-1]}; the student's end tokens "
            f"are {sorted(end_ids)}, so that the service ends responses at others",
        )


def as_generation(drawn: Generated, prefix: Sequence[int]) -> Generation:
    """A response after a given prefix, whose log-probs are NaN: whoever drew did not score it."""
    forced = np.full(len(prefix), _UNKNOWN)
    return Generation(
        response_ids=np.concatenate([np.array(prefix, np.int32), drawn.response_ids]),
        logprobs=np.concatenate([forced, drawn.logprobs_T]).astype(np.float32),
        finish_reason=drawn.finish_reason,
        num_forced=len(prefix),
    )
