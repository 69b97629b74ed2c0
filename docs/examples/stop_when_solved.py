"""A participant in one file: it ends a run once most attempts of a step succeed.

RunConfig(..., participants=(StopWhenSolved(share=0.9),))
"""

from collections.abc import Sequence
from dataclasses import dataclass

from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.participant import Participant, RunContext, StepContext


@dataclass(frozen=True, kw_only=True)
class StopWhenSolved:
    """As a value of the configuration."""

    share: float = 0.9
    """Of a step's attempts; with so many solved there is little left to learn."""

    @property
    def adds_rollouts(self) -> bool:
        """It only looks on."""
        return False

    def join(self, run: RunContext) -> Participant:
        """The participant of one run."""
        return _Watching(self.share)


class _Watching(Participant):
    def __init__(self, share: float) -> None:
        self._share = share

    async def ends(self, at: StepContext, labelled: Sequence[Labelled]) -> bool:
        """Before the run trains on these rows."""
        solved = sum(row.attempt.solved for row in labelled)
        return solved >= self._share * len(labelled)
