"""Publishing: after each step the weights become a version.

Its files are written where other processes load every version, and at checkpoints. Every
`checkpoint_every` steps a checkpoint is saved too, and versions that are not needed any more are
removed. Files are written, hashed and read in a thread: seconds for a model of 100M parameters, in
which the event loop serves everything else.

Where experts alone read a version between two checkpoints, the next step is sampled from the
trainer's tensors while its files are written: whoever names it to another process waits for `known`
first.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.listings import RunDetails
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.group_state import group_state
from preceptor_trainer.collect.late_answers import Group
from preceptor_trainer.learner.adapter_files import holds_version
from preceptor_trainer.learner.engine import Engine
from preceptor_trainer.learner.policy import WeightFolder
from preceptor_trainer.learner.rounding import Rounding
from preceptor_trainer.run.checkpoint import (
    Position,
    checkpoints,
    latest_checkpoint,
    load_checkpoint,
    load_unused,
    remove_old_checkpoints,
    save_checkpoint,
    weights_of,
)
from preceptor_trainer.run.config import RunConfig, others_read_versions, sampler_reads_files
from preceptor_trainer.run.evaluations import best_weights
from preceptor_trainer.run.journal import Journal
from preceptor_trainer.run.retention import Retention, Version
from preceptor_trainer.run.standing import Lineage, Standing, remember
from preceptor_trainer.sampling.sampler import Published

_IN_PROGRESS: Final = 2
"""Newest versions that a step in progress may name: the one that sampled it, and the next. Under
an overlapped schedule, those of all steps that are under way."""

_MASTERS: Final = "weights"
"""The weights in a checkpoint's state, where its version holds rounded ones."""


class AnotherGateway(Exception):
    """The run's checkpoint belongs to a lineage that this gateway does not have."""


class VersionsLost(Exception):
    """A teacher's average cannot be computed any more; the message says from where it can."""


class Publisher:
    """Keeps track of the run's lineage and its newest version."""

    def __init__(
        self,
        folder: WeightFolder,
        run_dir: Path,
        gateway: GatewayClient,
        *,
        rounding: Rounding | None = None,
    ) -> None:
        """Publishes nothing yet.

        Args:
            folder: Of the versions.
            run_dir: Has checkpoints and lineages.
            gateway: Registers versions that have files.
            rounding: How versions are rounded; None publishes the weights as they are.
        """
        self._folder = folder
        self._rounding = rounding
        self._run_dir = run_dir
        self._checkpoints = run_dir / "checkpoints"
        self._gateway = gateway
        self._adapters = False
        """Whether versions after the first are an adapter alone."""
        self._base: WeightManifest | None = None
        self._written: str | None = None
        """The newest version with files, from which the next one with files descends."""
        self._writing: asyncio.Task[None] | None = None
        """Writes the newest version that has files, and registers it; done or not."""
        self._num_bytes: int | None = None
        self.lineage = ""
        self.published: Published
        self.unused: list[dict[str, Any]] = []
        """Groups that the checkpoint had, as `group_state` wrote them."""

    async def start(
        self, config: RunConfig, engine: Engine, journal: Journal, *, adapters: bool = False
    ) -> Position:
        """Begins a lineage.

        From the last checkpoint where there is one, else from the shipped student.

        Args:
            config: The run's.
            engine: Trains the policy.
            journal: Records the start.
            adapters: Whether all who load versions take adapters. An engine that trains one then
                publishes it alone, beside the line's first version.
        """
        found = latest_checkpoint(self._checkpoints)
        self._adapters = adapters
        resumed, masters, weights = None, None, dict[str, Tensor]()
        if found is not None:
            resumed, state = await asyncio.to_thread(load_checkpoint, found)
            weights = await asyncio.to_thread(self._folder.read, resumed.weights)
            self.unused = await asyncio.to_thread(load_unused, found)
            masters = state.pop(_MASTERS, None)
            await asyncio.to_thread(engine.restore, masters or weights, state)
            self._check_averages(config, Version.of(resumed.weights))
        record = await journal.start_run()
        lineage = self._next_lineage(resumed, record, config.steps)
        self.lineage = lineage.name
        await journal.start_lineage(lineage)
        # Only now: a refused start must leave no record, so that the next one may be accepted.
        remember(self._run_dir, lineage)
        if resumed is None:
            await asyncio.to_thread(self._folder.remove_passing)  # of a start without a checkpoint
            await self._publish(engine, 0, checkpoint=True)
            self._base = self.published.manifest if adapters else None
            return Position(step=0, lineage=lineage.name, weights=self.published.version)
        manifest = await self._gateway.weights(resumed.weights)
        base = await self._base_of(manifest)
        self._base = (base or await self._first_of(manifest)) if adapters else None
        if masters is None:
            weights = await asyncio.to_thread(engine.weights)
        self._take(weights, manifest, base)
        named = {rollout["weights"] for group in self.unused for rollout in group["rollouts"]}
        await self._prune(config, num_newest=1, named=named)
        return resumed

    async def publish(self, step: int, engine: Engine, config: RunConfig) -> None:
        """Makes the engine's weights the version that begins `step`.

        Without files where no other process reads them and no checkpoint names it. Where a
        checkpoint or a sampling service needs the files next, they are there when this returns.

        Raises:
            OSError: its files, or those of the version before, could not be written.
            PreceptorError: the gateway did not take one of them.
        """
        await self._written_files()
        is_due = _is_due(step, config)
        if is_due or sampler_reads_files(config):
            await self._publish(engine, step, checkpoint=is_due)
        elif others_read_versions(config):
            self.published = await self._begin(engine, step, checkpoint=False)
        else:
            weights = await asyncio.to_thread(self._weights, engine, step)
            self._num_bytes = None
            version = self._folder.version(self.lineage, step)
            self.published = Published(version=version, tensors=weights)

    async def known(self, version: str) -> None:
        """Waits until the gateway knows a version that has files, or is about to have them.

        Raises:
            OSError: its files could not be written.
            PreceptorError: the gateway did not take it.
        """
        if version == self.published.version and self.published.manifest is None:
            await self._written_files()

    async def close(self) -> None:
        """Ends what is being written: the run has ended, and nothing names it."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])

    def metrics(self) -> dict[str, float]:
        """Bytes of the tensors in the newest version's files, where it has files."""
        size = self._num_bytes
        return {} if size is None else {"published_bytes": float(size)}

    async def checkpoint_if_due(
        self,
        step: int,
        engine: Engine,
        config: RunConfig,
        unused: Sequence[Group] = (),
    ) -> None:
        """Saves a checkpoint if it is due, and removes what is not needed any more.

        Args:
            step: The step that comes next.
            engine: Has the optimiser's state.
            config: The run's.
            unused: Groups with answers that no batch before `step` used.
        """
        is_due = _is_due(step, config)
        if is_due:
            position = Position(step=step, lineage=self.lineage, weights=self.published.version)
            states = [group_state(group) for group in unused]
            await asyncio.to_thread(self._save, position, engine, config.keep, states)
        # With experts only at checkpoints: until then an average may need every version.
        if is_due or (others_read_versions(config) and not config.experts):
            await self._prune(
                config,
                num_newest=1 if step == config.steps else _num_loaded(config),
                named={attempt.rollout.weights for group in unused for attempt in group.attempts},
            )

    async def write_last(self, engine: Engine) -> None:
        """Keeps the newest version's files: a participant ended the run early."""
        await self._written_files()
        version = self.published.version
        if self.published.manifest is None:
            await self._publish(engine, Version.of(version).step, checkpoint=False, passes=False)
        await asyncio.to_thread(self._folder.keep, version)

    async def finish(self) -> None:
        """Removes what passed through the scratch folder: the run is at its end."""
        await self._written_files()
        await asyncio.to_thread(self._folder.remove_passing)

    async def keep_step(self, engine: Engine, config: RunConfig) -> None:
        """Saves the steps since the last checkpoint, for a run that ends between two steps.

        Not with experts, whose averages are stored beside planned checkpoints, and not where steps
        overlap, ranks may have ended already, or versions pass through a scratch folder; these go
        on from the last checkpoint. So does one whose gateway does not take the version.
        """
        if config.experts or config.ranks > 1 or config.schedule.overlapped is not None:
            return
        if self._folder.passing is not None:
            return
        step = Version.of(self.published.version).step
        found = latest_checkpoint(self._checkpoints)
        if step > (0 if found is None else int(found.name)):
            if self.published.manifest is None:
                try:
                    await self._publish(engine, step, checkpoint=True)
                except PreceptorError:
                    return
            position = Position(step=step, lineage=self.lineage, weights=self.published.version)
            await asyncio.to_thread(self._save, position, engine, config.keep, [])

    def _save(
        self, position: Position, engine: Engine, keep: int, unused: Sequence[dict[str, Any]]
    ) -> None:
        state = engine.state_dict()
        if self._rounding is not None:
            state[_MASTERS] = engine.weights()
        save_checkpoint(self._checkpoints, position, state, unused)
        remove_old_checkpoints(self._checkpoints, keep=keep)

    async def _prune(
        self, config: RunConfig, *, num_newest: int, named: Collection[str] = ()
    ) -> None:
        retention, kept = self._retention(config), self._kept()
        lineages = Standing.read(self._run_dir).lineages
        best = best_weights(self._run_dir)
        wanted = {Version.of(name) for name in (best, *named) if name is not None}
        await asyncio.to_thread(retention.prune, lineages, kept, num_newest=num_newest, also=wanted)

    def _retention(self, config: RunConfig) -> Retention:
        return Retention(
            folder=self._folder.root / self._folder.policy,
            passing=_below(self._folder.passing, self._folder.policy),
            keep=config.keep,
            averaged=bool(config.experts),
        )

    def _kept(self) -> list[Version]:
        """The versions of all checkpoints, oldest first."""
        return [Version.of(weights_of(path)) for path in checkpoints(self._checkpoints)]

    def _check_averages(self, config: RunConfig, start: Version) -> None:
        """Refuses to go on where a teacher could not compute its average of `start`.

        Raises:
            VersionsLost: versions that it needs went with the scratch folder.
        """
        if self._folder.passing is None:
            return
        lineages = Standing.read(self._run_dir).lineages
        lost = self._retention(config).lost(lineages, self._kept(), start)
        if lost is not None:
            raise VersionsLost(
                f"{self._folder.passing} lacks the weights of step {lost.first}, which a teacher "
                f"needs for its average at step {start.step}: its last stored one is of step "
                f"{lost.stored}, and what was in memory went with a restart of the machine. Remove "
                f"the folders in {self._checkpoints} after {lost.stored:08d}, and start again; the "
                "steps since then are repeated"
            )

    async def _publish(
        self, engine: Engine, step: int, *, checkpoint: bool, passes: bool = True
    ) -> None:
        await self._begin(engine, step, checkpoint=checkpoint, passes=passes)
        await self._written_files()

    async def _begin(
        self, engine: Engine, step: int, *, checkpoint: bool, passes: bool = True
    ) -> Published:
        """Takes a copy of the engine's weights, and begins to write them.

        Returns the version without its manifest. Where a service is to sample it, it is not the
        newest one yet: another step may ask for that meanwhile.
        """
        version = self._folder.version(self.lineage, step)
        weights = await asyncio.to_thread(self._weights, engine, step)
        is_adapter = self._adapters and (self._base is not None or step == 0)
        adapter = await asyncio.to_thread(engine.adapter) if is_adapter else None
        if adapter is None or self._base is None:
            base, tensors = None, weights
            # Only at step 0, because later ones are not of these weights.
            write = partial(self._folder.write, weights, first_adapter=adapter)
        else:
            base, tensors = self._base, adapter.tensors
            write = partial(self._folder.write_adapter, adapter, base=base.version)
        self._num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        write = partial(write, version, parent=self._written, checkpoint=checkpoint, passes=passes)
        self._writing = asyncio.create_task(self._write(write, weights, base))
        return Published(version=version, tensors=weights)

    def _weights(self, engine: Engine, step: int) -> dict[str, Tensor]:
        """A copy of the weights that begin `step`, as all who load the version compute with."""
        weights = engine.weights()
        return weights if self._rounding is None else self._rounding.rounded(weights, step)

    async def _write(
        self,
        write: Callable[[], WeightManifest],
        weights: Mapping[str, Tensor],
        base: WeightManifest | None,
    ) -> None:
        manifest = await asyncio.to_thread(write)
        await self._gateway.register_weights(manifest)
        self._take(weights, manifest, base)

    async def _written_files(self) -> None:
        """Waits for what is being written, and raises why it could not be."""
        if self._writing is not None:
            # Several may wait, and one that is cancelled must not end it for the others.
            await asyncio.shield(self._writing)

    def _take(
        self,
        weights: Mapping[str, Tensor],
        manifest: WeightManifest,
        base: WeightManifest | None,
    ) -> None:
        self._written = manifest.version
        self.published = Published(
            version=manifest.version, tensors=weights, manifest=manifest, base=base
        )

    async def _base_of(self, manifest: WeightManifest) -> WeightManifest | None:
        return None if manifest.base is None else await self._gateway.weights(manifest.base)

    async def _first_of(self, manifest: WeightManifest) -> WeightManifest | None:
        """The first version of a line, which is the model without its adapter, if it is here."""
        first = (await self._gateway.weight_lineage(manifest.version))[0]
        is_here = holds_version(self._folder.root / first.version)
        return first if is_here and Version.of(first.version).step == 0 else None

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


def _num_loaded(config: RunConfig) -> int:
    """Newest versions with files that a step in progress may name to another process."""
    overlapped = config.schedule.overlapped
    if not others_read_versions(config):
        return 1
    return _IN_PROGRESS if overlapped is None else overlapped.staleness + 1


def _below(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / name


def _is_due(step: int, config: RunConfig) -> bool:
    # What is evaluated is kept: it may turn out to be the best.
    evaluated = config.evaluation is not None and config.evaluation.is_due(step)
    return evaluated or step % config.checkpoint_every == 0 or step == config.steps
