"""The interface between a run and what trains its policy.

    result = engine.step(batches, objective)
    folder.write(engine.weights(), version, parent=parent, checkpoint=False)
    save_checkpoint(folder, position, engine.state_dict())

The loop, publishing and checkpoints use nothing else of it. `learner.py` is the engine of this
package; another one, such as a training service, takes its place with these methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from preceptor_trainer.learner.learner import StepResult
from preceptor_trainer.learner.lora import AdapterFiles
from preceptor_trainer.model.batch import TrainBatch
from preceptor_trainer.objectives import Objective


class Engine(Protocol):
    """Trains one policy. No two of its methods run at a time; each may be called in any thread."""

    def step(self, batches: Sequence[TrainBatch], objective: Objective) -> StepResult:
        """Take one optimiser step on all batches together: forward, backward, update.

        Raises:
            ValueError: no batches, or targets that the objective refuses.
        """
        ...

    def measure(self, batches: Sequence[TrainBatch], objective: Objective) -> StepResult:
        """The loss, its parts and the credits of a step that is not taken.

        Raises:
            ValueError: no batches, or targets that the objective refuses.
        """
        ...

    def weights(self) -> dict[str, Tensor]:
        """A copy of the whole policy under the names of its own folder, tied weights once."""
        ...

    def adapter(self) -> AdapterFiles | None:
        """A copy of what is trained, where that is an adapter of the folder's weights.

        None where all weights are trained, or files of an adapter could not describe it.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the weights; `torch.load` reads it with `weights_only`."""
        ...

    def restore(self, weights: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Go on where `weights` and `state_dict` were taken, by an engine of any number of ranks.

        Raises:
            ValueError: they do not belong to this policy.
        """
        ...

    def close(self) -> None:
        """Ends what it started."""
        ...
