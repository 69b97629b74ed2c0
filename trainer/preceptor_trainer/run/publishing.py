"""Publishing: after each step the weights become a version that services may load.

Every `checkpoint_every` steps a checkpoint is saved too, and versions that are not needed any more
are removed. Files are written, hashed and read in a thread: seconds for a model of 100M parameters,
in which the event loop serves everything else.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Final

from preceptor_clients.contract.listings import RunDetails
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.learner.learner import Learner
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.run.checkpoint import (
    Position,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
    weights_of,
)
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.evaluations import best_weights
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.retention import Retention, Version
from preceptor_trainer.run.standing import Lineage, Standing, remember
from preceptor_trainer.sampling.sampler import Published

_IN_PROGRESS: Final = 2
"""Newest versions that a step in progress may name: the one that sampled it, and the next."""


class AnotherGateway(Exception):
    """The run's checkpoint belongs to a lineage that this gateway does not have."""


class Publisher:
    """Keeps track of the run's lineage and its newest version."""

    def __init__(self, folder: WeightFolder, run_dir: Path, gateway: GatewayClient) -> None:
        self._folder = folder
        self._run_dir = run_dir
        self._checkpoints = run_dir / "checkpoints"
        self._gateway = gateway
        self.lineage = ""
        self.published: Published

    async def start(self, config: RunConfig, learner: Learner, journal: Journal) -> Position:
        """Begins a lineage.

        From the last checkpoint where there is one, else from the shipped student.
        """
        found = latest_checkpoint(self._checkpoints)
        resumed = None
        if found is not None:
            resumed, state = await asyncio.to_thread(load_checkpoint, found)
            await asyncio.to_thread(self._folder.read, learner.model, resumed.weights)
            await asyncio.to_thread(learner.load_state_dict, state)
        record = await journal.start_run()
        lineage = self._next_lineage(resumed, record, config.steps)
        self.lineage = lineage.name
        await journal.start_lineage(lineage)
        # Only now: a refused start must leave no record, so that the next one may be accepted.
        remember(self._run_dir, lineage)
        if resumed is None:
            await self._publish(learner, 0, parent=None, checkpoint=True)
            return Position(step=0, lineage=lineage.name, weights=self.published.version)
        manifest = await self._gateway.weights(resumed.weights)
        await asyncio.to_thread(self._take, learner, manifest)
        await self._prune(config, num_newest=1)
        return resumed

    async def publish(self, step: int, learner: Learner, config: RunConfig) -> None:
        """Makes the learner's weights the version that begins `step`."""
        await self._publish(
            learner, step, parent=self.published.version, checkpoint=_is_due(step, config)
        )

    async def checkpoint_if_due(self, step: int, learner: Learner, config: RunConfig) -> None:
        """Saves a checkpoint if it is due, and removes what is not needed any more."""
        is_due = _is_due(step, config)
        if is_due:
            position = Position(step=step, lineage=self.lineage, weights=self.published.version)
            await asyncio.to_thread(self._save, position, learner, config.keep)
        # With experts only at checkpoints: until then an average may need every version.
        if is_due or not config.experts:
            await self._prune(config, num_newest=1 if step == config.steps else _IN_PROGRESS)

    def _save(self, position: Position, learner: Learner, keep: int) -> None:
        save_checkpoint(self._checkpoints, position, learner.state_dict())
        remove_old_checkpoints(self._checkpoints, keep=keep)

    async def _prune(self, config: RunConfig, *, num_newest: int) -> None:
        retention = Retention(
            folder=self._folder.root / self._folder.policy,
            keep=config.keep,
            averaged=bool(config.experts),
        )
        kept = [Version.of(weights_of(path)) for path in checkpoints(self._checkpoints)]
        lineages = Standing.read(self._run_dir).lineages
        named = best_weights(self._run_dir)
        best = None if named is None else Version.of(named)
        await asyncio.to_thread(retention.prune, lineages, kept, num_newest=num_newest, best=best)

    async def _publish(
        self, learner: Learner, step: int, *, parent: str | None, checkpoint: bool
    ) -> None:
        version = self._folder.version(self.lineage, step)
        manifest = await asyncio.to_thread(
            self._folder.write, learner.model, version, parent=parent, checkpoint=checkpoint
        )
        await self._gateway.register_weights(manifest)
        await asyncio.to_thread(self._take, learner, manifest)

    def _take(self, learner: Learner, manifest: WeightManifest) -> None:
        tensors = {k: v.detach().clone() for k, v in learner.model.state_dict().items()}
        self.published = Published(version=manifest.version, tensors=tensors, manifest=manifest)

    def _next_lineage(self, resumed: Position | None, record: RunDetails, steps: int) -> Lineage:
        """A lineage with a name that gateway and folder lack, and a parent that the gateway has."""
        known = [one.lineage for one in record.lineages]
        if resumed is not None and resumed.lineage not in known:
            raise AnotherGateway(
                f"{self._run_dir} goes on from lineage {resumed.lineage}, which this gateway does "
                f"not know: the run belongs to another gateway, or its database was lost. Begin "
                "anew in another folder, or start the gateway that it was begun with"
            )
        parent = resumed.lineage if resumed else (known[-1] if known else None)
        taken = {*known, *(one.name for one in Standing.read(self._run_dir).lineages)}
        name = next(f"l{n}" for n in itertools.count() if f"l{n}" not in taken)
        from_step = resumed.step if resumed else 0
        return Lineage(name=name, parent=parent, from_step=from_step, steps=steps)


def _is_due(step: int, config: RunConfig) -> bool:
    # What is evaluated is kept: it may turn out to be the best.
    evaluated = config.evaluation is not None and config.evaluation.is_due(step)
    return evaluated or step % config.checkpoint_every == 0 or step == config.steps
