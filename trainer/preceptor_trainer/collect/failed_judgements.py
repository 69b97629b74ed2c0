"""Judgements that failed: counted, and above a share the reason why a run stops.

A sandbox that is gone, a judge that cannot be reached and a verifier that takes too long say
nothing about a response. Such attempts have no reward. They are in no mean, and no baseline of
their group; but where many fail, those that are left are no longer a fair sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from preceptor_trainer.collect.rollouts import Attempt

_MOST_REASONS = 3


class SourcesFail(RuntimeError):
    """So many judgements of a step failed that its rewards cannot be trusted."""


def unjudged(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Attempts without a reward because a source failed."""
    return [attempt for attempt in attempts if attempt.score is None and attempt.failures]


def failures_by_source(attempts: Sequence[Attempt]) -> Counter[str]:
    """Failed judgements of each source, also of sources that do not decide the reward."""
    return Counter(source for attempt in attempts for source in attempt.failures)


def check_judged(attempts: Sequence[Attempt], most: float, step: int) -> None:
    """Refuses a step of whose attempts a larger share than `most` has no reward.

    Raises:
        SourcesFail: the message has the commonest reasons.
    """
    failed = unjudged(attempts)
    if len(failed) <= most * len(attempts):
        return
    reasons = Counter(f"{source}: {why}" for a in failed for source, why in a.failures.items())
    said = "; ".join(f"{n} times {why}" for why, n in reasons.most_common(_MOST_REASONS))
    raise SourcesFail(
        f"step {step + 1}: {len(failed)} of {len(attempts)} attempts were not judged, more than "
        f"max_failed = {most:g} allows: {said}"
    )
