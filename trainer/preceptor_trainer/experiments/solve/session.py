"""The student and its feedback sources, for drivers without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch

from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.labelling import Labeller
from preceptor_trainer.collect.student import Student
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.model.weights import weights_of
from preceptor_trainer.sampling.sampler import Published
from preceptor_trainer.tasks.programming_by_example.task import PROGRAMMING

INITIAL: Final = "initial"
"""Lineage name of the shipped weights, which were not published by a run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """The shipped student, and the sources at the gateway."""

    run: str
    policy: Policy
    student: Student
    labeller: Labeller

    @classmethod
    async def open(cls, gateway: GatewayClient, *, run: str, model: Path, threads: int = 2) -> Self:
        """Loads the student."""
        torch.set_num_threads(threads)
        policy = Policy(model)
        student = Student(policy)
        initial = Published(version=f"{run}/{INITIAL}/0", tensors=weights_of(policy.model))
        await student.load(initial)
        labeller = Labeller(
            gateway=gateway,
            run=run,
            task=PROGRAMMING,
            experts=(),
            context=NothingInView(),
            vocab_fingerprint=policy.vocab_fingerprint,
            batching="merge",
            timeout_s=300.0,
        )
        return cls(run=run, policy=policy, student=student, labeller=labeller)
