"""The shipped student behind a sampler that says what a test wrote down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from preceptor_trainer.collect.episodes import RolloutRequest
from preceptor_trainer.collect.rollouts import Rollout
from preceptor_trainer.collect.student import Student
from preceptor_trainer.environments.environment import Dialogue
from preceptor_trainer.kit.seeding import generator
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.sampler import Generation, Published, SampleRequest
from preceptor_trainer.student import STUDENT_DIR

Says = Callable[[int, int], str]
"""From the number of the turn and of the attempt to what is said."""


@dataclass(eq=False)
class ScriptedSampler:
    """Says given turns; log-probs count the tokens, so that each can be told from the others."""

    policy: Policy
    says: Says
    contexts: list[list[list[int]]] = field(default_factory=list[list[list[int]]])
    version: str = "run/l0/0"

    async def takes_adapters(self) -> bool:
        return False

    async def load(self, published: Published) -> None:
        del published

    async def sample(self, request: SampleRequest) -> list[list[Generation]]:
        turn = len(self.contexts)
        self.contexts.append([list(prompt) for prompt in request.prompts])
        return [
            [self._generation(self.says(turn, i), request.params.max_new_tokens)]
            for i in range(len(request.prompts))
        ]

    def _generation(self, text: str, limit: int) -> Generation:
        ids = self.policy.response_ids(text)
        drawn = np.array(ids[:limit], np.int32)
        return Generation(
            response_ids=drawn,
            logprobs=-np.arange(1, len(drawn) + 1, dtype=np.float32),
            finish_reason="stop" if len(ids) <= limit else "length",
        )


@dataclass(kw_only=True, eq=False)
class Played:
    """Some attempts and what the sampler saw."""

    rollouts: list[Rollout]
    sampler: ScriptedSampler
    policy: Policy


@pytest.fixture(scope="session")
def policy() -> Policy:
    return Policy(STUDENT_DIR)


@pytest.fixture
def play(policy: Policy):
    """Plays attempts at one problem with what the student says."""

    async def played(
        dialogue: Dialogue,
        says: Says | Sequence[str],
        *,
        count: int = 1,
        max_tokens: int = 200,
        gateway: Any = None,
        row: dict[str, Any] | None = None,
        policy: Policy = policy,
    ) -> Played:
        script: Says = says if callable(says) else lambda turn, _: says[turn]
        environment = dialogue.environment.connect(gateway, "run")
        sampler = ScriptedSampler(policy, script)
        student = Student(
            policy, lambda _: cast("Any", sampler), dialogue=dialogue, environment=environment
        )
        chat = ({"role": "user", "content": "Hi"},)
        problem = SimpleNamespace(id="p", messages=chat, payload=row or {})
        try:
            rollouts = await student.rollouts(
                RolloutRequest(
                    problems=[problem],
                    payloads=["a" * 64],
                    num_samples=count,
                    params=SamplingParams(max_new_tokens=max_tokens),
                    generator=generator(0),
                    prefix="r",
                    step=0,
                )
            )
        finally:
            await environment.close()
        return Played(rollouts=rollouts, sampler=sampler, policy=policy)

    return played
