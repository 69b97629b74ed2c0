"""The engine of rank 0: what it is asked to do, all ranks do.

with_ranks = Leader(group, Setup(folder=folder, optimiser=optimiser, ...))
with_ranks.step(batches, objective)
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor_trainer.kit.placement import Precision, placement
from preceptor_trainer.learner.group import Group
from preceptor_trainer.learner.learner import OptimiserConfig, StepResult
from preceptor_trainer.learner.lora import AdapterFiles, Lora, add_adapter
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.learner.sharded import ShardedLearner
from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.model.checkpointing import checkpointed
from preceptor_trainer.model.heads.head import Head
from preceptor_trainer.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every rank makes its learner of."""

    folder: Path
    """Of the student, which each rank reads."""
    optimiser: OptimiserConfig
    lora: Lora | None
    seed: int
    head: Head
    packing: bool
    checkpointing: bool
    device_type: str
    dtype: Precision
    threads: int

    def learner(self, group: Group, policy: Policy | None = None) -> ShardedLearner:
        """This rank's learner, of `policy` where it is loaded already."""
        torch.set_num_threads(self.threads)
        device = f"cuda:{group.local_rank}" if self.device_type == "cuda" else self.device_type
        place = placement(device=device, dtype=self.dtype)
        own = policy or Policy(self.folder, place, packing=self.packing)
        adapter = None if self.lora is None else add_adapter(own.model, self.lora, self.seed)
        trunk = checkpointed(own.model, own.trunk) if self.checkpointing else own.trunk
        return ShardedLearner(
            own.model,
            self.optimiser,
            group=group,
            trunk=trunk,
            head=self.head,
            place=place,
            adapter=adapter,
        )


class Leader:
    """An `Engine` on all ranks of a group, for rank 0."""

    def __init__(self, group: Group, setup: Setup, policy: Policy | None = None) -> None:
        self._group = group
        with self._together("setup", setup):
            self._learner = setup.learner(group, policy)

    def step(self, batches: Sequence[TrainBatch], objective: Objective) -> StepResult:
        """Take one optimiser step on all batches together.

        Raises:
            ValueError: no batches, or targets that the objective refuses.
            RankEnded: another rank's process has ended.
        """
        with self._together("step", batches, objective):
            return self._learner.step(batches, objective)

    def measure(self, batches: Sequence[TrainBatch], objective: Objective) -> StepResult:
        """The loss, its parts and the credits of a step that is not taken."""
        with self._together("measure", batches, objective):
            return self._learner.measure(batches, objective)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the whole policy."""
        with self._together("weights"):
            return self._learner.weights()

    def adapter(self) -> AdapterFiles | None:
        """A copy of the adapter."""
        with self._together("adapter"):
            return self._learner.adapter()

    def state_dict(self) -> dict[str, Any]:
        """The state of a learner in one process."""
        with self._together("state_dict"):
            return self._learner.state_dict()

    def restore(self, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Continue with the weights and the state of one moment."""
        # The others get their parts of it, and not the whole.
        with self._together("restore", None, None):
            self._learner.restore(weights, state)

    def close(self) -> None:
        """Ends the other ranks."""
        self._group.close()

    @contextmanager
    def _together(self, what: str, *arguments: object) -> Generator[None]:
        try:
            with self._group.busy:
                self._group.tell(what, *arguments)
                yield
        except Exception:
            self._group.failed = True
            # A rank that has ended is the cause, and what rank 0 sees of it is a lost connection.
            self._group.check()
            raise
