"""The student statistics of objectives: a few numbers per response position, never the logits.

The full vocabulary enters once, through the normaliser: every log-prob here is
`logit - logsumexp(all logits)`, also where only K ids are scored. The student's probability outside
an expert's K ids is one number, the tail.

Dimensions: B rollouts (rows), T response positions, E experts (components of a target), K ids of
one component, C candidate ids. Entry t belongs to the distribution over response token t given
everything before t. Empty cells (padding, an empty id) hold ABSENT.

Left out on purpose: whole distributions. Only full-vocabulary divergences need them, and the
supports that are sent over the wire never do.
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

# The log-prob of an absent cell. Finite, so that a zero weight times it is zero and not NaN; far
# below any real log-prob, so that its exponential is zero and not probability one.
ABSENT = -1e4

# A student that puts (numerically) everything on an expert's ids still has this much tail, so that
# its logarithm and the cross-entropy on it stay finite.
MIN_TAIL = 1e-7


Reads: TypeAlias = Literal["own", "later", "all"]
"""Which statistics the loss of one token is computed from: those of its `own` position; of `later`
positions too, of any rollout; or of `all`. Rewards, targets and masks are no statistics."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The optional statistics that an objective consumes; sampled log-probs are always there."""

    target_logprobs: bool = False
    """Log-probs at the ids of every component, and the log tail mass beside them."""
    num_candidates: int = 0
    """Number of the student's most probable ids that experts score; log-probs at them are
    computed."""
    entropy: bool = False
    """Entropy of the full distribution, without gradient: it is a metric."""


@dataclass(frozen=True, kw_only=True)
class StudentStatistics:
    """Statistics of one batch in float32 (float64 where the model is); None where not asked for."""

    sampled_logprobs_BT: Tensor
    target_logprobs_BTEK: Tensor | None = None
    tail_logprobs_BTE: Tensor | None = None
    candidate_logprobs_BTC: Tensor | None = None
    entropy_BT: Tensor | None = None

    def detach(self) -> "StudentStatistics":
        """The same numbers as data, outside the graph."""
        return replace(
            self, **{k: v.detach() for k, v in vars(self).items() if isinstance(v, Tensor)}
        )


def log_tail_mass(logprobs_K: Tensor, present_K: Tensor) -> Tensor:
    """Log of the probability outside a set of ids.

    The log-probs must be normalised over the full vocabulary. `log1p(-mass)` equals
    `log(-expm1(logsumexp))` and has a gradient for an empty set too (tail 1, log tail 0). At the
    clamp the gradient is zero.

    Args:
        logprobs_K: [..., K] student log-probs at the ids.
        present_K: [..., K] bool, False where a cell holds no id.

    Returns:
        [...] log tail mass, at least log(MIN_TAIL).
    """
    # where, so that an empty set has a mass of exactly 0 with a gradient of 0, for any cell values.
    mass = torch.where(present_K, logprobs_K.exp(), 0.0).sum(-1)
    return torch.log1p(-mass.clamp(max=1.0 - MIN_TAIL))
