"""Which engine trains a run's policy: in this process, or divided between ranks."""

from __future__ import annotations

from pathlib import Path

from preceptor_trainer.kit.placement import Placement
from preceptor_trainer.learner.engine import Engine
from preceptor_trainer.learner.group import is_launched, launched, started
from preceptor_trainer.learner.leader import Leader, Setup
from preceptor_trainer.learner.learner import Learner
from preceptor_trainer.learner.lora import add_adapter
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.checkpointing import checkpointed
from preceptor_trainer.run.config import RunConfig


def engine_of(config: RunConfig, policy: Policy, place: Placement, run_dir: Path) -> Engine:
    """Starts what the configuration asks for; the run closes it.

    Raises:
        RankEnded: a rank did not start.
        ValueError: the model has no such layers for an adapter.
    """
    if config.ranks > 1:
        group = launched() if is_launched() else started(config.ranks, run_dir / "ranks")
        return Leader(group, _setup(config, place), policy)
    model, trunk = policy.model, policy.trunk
    adapter = None if config.lora is None else add_adapter(model, config.lora, config.seed)
    if config.checkpointing:
        trunk = checkpointed(model, trunk)
    return Learner(
        model, config.optimiser, trunk=trunk, head=config.head, place=place, adapter=adapter
    )


def _setup(config: RunConfig, place: Placement) -> Setup:
    return Setup(
        folder=config.model,
        optimiser=config.optimiser,
        lora=config.lora,
        seed=config.seed,
        head=config.head,
        packing=config.packing,
        checkpointing=config.checkpointing,
        device_type=place.device.type,
        dtype=config.dtype,
        threads=config.threads,
    )
