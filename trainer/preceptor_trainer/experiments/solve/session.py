"""The student and those who judge its attempts: all that the drivers without training need."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from preceptor_clients.http.clients import GatewayClient
from preceptor_trainer.collect.context import NothingInView
from preceptor_trainer.collect.labelling import Asker
from preceptor_trainer.collect.sampler import Published, SamplerStage
from preceptor_trainer.learner.policy import Policy

INITIAL: Final = "initial"
"""Lineage of the shipped weights, which no run published."""


class Session:
    """The shipped student, its sampler, and the sources at the gateway."""

    def __init__(self, gateway: GatewayClient, *, run: str, model: Path, threads: int = 2) -> None:
        torch.set_num_threads(threads)
        self.run = run
        self.policy = Policy(model)
        self.stage = SamplerStage(self.policy)
        tensors = {k: v.detach().clone() for k, v in self.policy.model.state_dict().items()}
        self.stage.load(Published(version=f"{run}/{INITIAL}/0", tensors=tensors))
        self.asker = Asker(
            gateway=gateway,
            run=run,
            sources=("executor",),
            experts=(),
            context=NothingInView(),
            vocab_fingerprint=self.policy.vocab_fingerprint,
            batching="merge",
            timeout_s=300.0,
        )
