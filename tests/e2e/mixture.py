"""The quickstart's run with two more experts, as a user's own recipe.

One of them only samples, the other has another tokenizer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preceptor_clients.targets.token_weights import Certainty
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.recipes.quickstart import quickstart
from preceptor_trainer.run.config import RunConfig

SAMPLER = ExpertUse(
    name="sampler",
    per_token=Certainty(scale=1.0),
    kind="empirical",
    own_logprobs=False,
    scores_candidates=False,
    needs_feedback=False,
    wants_entropy=True,
)
WORDS = ExpertUse(
    name="words",
    weight=0.5,
    per_token=Certainty(scale=1.0),
    own_logprobs=False,
    scores_candidates=False,
    needs_feedback=False,
)


def recipe(**options: Any) -> RunConfig:
    """Takes the quickstart's options."""
    run = quickstart(**options)
    return replace(run, experts=(*run.experts, SAMPLER, WORDS))
