"""Publishing.

After each step the weights become a version that services may ask for; now and then, a checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from preceptor_clients.contract.json_lines import read_lines
from preceptor_clients.contract.schemas import LineageRecord
from preceptor_clients.http.clients import GatewayClient
from preceptor_trainer.learner.learner import Learner
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.run.checkpoint import (
    Position,
    latest_checkpoint,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.sampling.sampler import Published


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """One start of the trainer on a run's folder."""

    name: str
    parent: str | None
    from_step: int


class Publisher:
    """Keeps track of where the run stands and what its newest version is."""

    def __init__(self, folder: WeightFolder, checkpoints: Path, gateway: GatewayClient) -> None:
        self._folder = folder
        self._checkpoints = checkpoints
        self._lineages = checkpoints / "lineages.jsonl"
        self._gateway = gateway
        self.lineage = ""
        self.published: Published
        self._kept: list[int] = []

    async def start(self, config: RunConfig, learner: Learner, journal: Journal) -> Position:
        """Begins a lineage.

        From the last checkpoint where there is one, else from the shipped student.
        """
        found = latest_checkpoint(self._checkpoints)
        resumed = None
        if found is not None:
            resumed, state = load_checkpoint(found)
            self._folder.read(learner.model, resumed.weights)
            learner.load_state_dict(state)
        lineage = self._next_lineage(resumed)
        self.lineage = lineage.name
        await journal.start(
            LineageRecord(
                run=config.name,
                lineage=lineage.name,
                parent=lineage.parent,
                from_step=lineage.from_step,
            )
        )
        # Only now: a start that the gateway refused leaves no trace, so the next one may be taken.
        self._remember(lineage)
        if resumed is None:
            await self._publish(learner, 0, parent=None, checkpoint=True)
            return Position(step=0, lineage=lineage.name, weights=self.published.version)
        self._take(learner, resumed.weights)
        return resumed

    async def publish(self, step: int, learner: Learner, config: RunConfig) -> None:
        """Makes the learner's weights the version that begins `step`."""
        await self._publish(
            learner, step, parent=self.published.version, checkpoint=_is_due(step, config)
        )

    def checkpoint_if_due(self, step: int, learner: Learner, config: RunConfig) -> None:
        """Saves a checkpoint, and lets go of what the last but one no longer needs."""
        if not _is_due(step, config):
            return
        position = Position(step=step, lineage=self.lineage, weights=self.published.version)
        save_checkpoint(self._checkpoints, position, learner.state_dict())
        remove_old_checkpoints(self._checkpoints)
        self._kept.append(step)
        if len(self._kept) > 1:
            self._folder.prune(self.lineage, before_step=self._kept[-2], keep=[0, *self._kept])

    async def _publish(
        self, learner: Learner, step: int, *, parent: str | None, checkpoint: bool
    ) -> None:
        version = self._folder.version(self.lineage, step)
        manifest = self._folder.write(learner.model, version, parent=parent, checkpoint=checkpoint)
        await self._gateway.register_weights(manifest)
        self._take(learner, version)

    def _take(self, learner: Learner, version: str) -> None:
        tensors = {k: v.detach().clone() for k, v in learner.model.state_dict().items()}
        self.published = Published(version=version, tensors=tensors)

    def _next_lineage(self, resumed: Position | None) -> Lineage:
        """Named after those that were started before, which a file beside the checkpoints lists."""
        lines = read_lines(self._lineages) if self._lineages.exists() else []
        parent = resumed.lineage if resumed else (f"l{len(lines) - 1}" if lines else None)
        return Lineage(
            name=f"l{len(lines)}", parent=parent, from_step=resumed.step if resumed else 0
        )

    def _remember(self, lineage: Lineage) -> None:
        self._lineages.parent.mkdir(parents=True, exist_ok=True)
        with self._lineages.open("a") as file:
            file.write(json.dumps(asdict(lineage)) + "\n")


def _is_due(step: int, config: RunConfig) -> bool:
    return step % config.checkpoint_every == 0 or step == config.steps
