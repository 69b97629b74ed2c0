"""The sampling stage.

Problems in, rollouts out, from a copy of the policy at one published version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from preceptor_trainer.collect.candidates import student_entropy, student_top_k
from preceptor_trainer.collect.rollouts import Problem, Rollout
from preceptor_trainer.learner.policy import Policy
from preceptor_trainer.sampling.local import Generation, LocalSampler, SamplingParams


@dataclass(frozen=True, kw_only=True)
class Published:
    """One version of the policy, as the sampler needs it."""

    version: str
    tensors: dict[str, torch.Tensor]


class SamplerStage:
    """Owns its model, so that the optimiser may move on while it samples."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._model: nn.Module = policy.new_model()
        self._version: str | None = None
        tokenizer: Any = policy.tokenizer
        self._sampler = LocalSampler(
            self._model, eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id
        )

    def load(self, published: Published) -> None:
        """Takes on a version."""
        if published.version != self._version:
            self._model.load_state_dict(published.tensors)
            self._version = published.version

    @property
    def version(self) -> str:
        """The version that it holds."""
        assert self._version is not None, "no version was loaded"
        return self._version

    def prompt_ids(self, problem: Problem) -> list[int]:
        """The ids that the student continues."""
        return self._policy.encode(problem.messages)

    def response_ids(self, text: str) -> list[int]:
        """A text as a whole response, the end token included."""
        tokenizer: Any = self._policy.tokenizer
        return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]

    def generate(
        self,
        problems: Sequence[Problem],
        *,
        num_samples: int,
        params: SamplingParams,
        generator: torch.Generator,
    ) -> list[list[Generation]]:
        """`num_samples` generations of each problem."""
        prompts = [self.prompt_ids(problem) for problem in problems]
        return self._groups(prompts, num_samples, params, generator)

    def _groups(
        self,
        prompts: Sequence[list[int]],
        num_samples: int,
        params: SamplingParams,
        generator: torch.Generator,
    ) -> list[list[Generation]]:
        repeated = [ids for ids in prompts for _ in range(num_samples)]
        flat = self._sampler.sample(repeated, params, generator)
        return [flat[i : i + num_samples] for i in range(0, len(flat), num_samples)]

    def with_candidates(self, rollouts: Sequence[Rollout], num_ids: int) -> list[Rollout]:
        """The rollouts with this version's `num_ids` most probable ids at every position."""
        candidates = student_top_k(
            self._model, rollouts, num_ids, self._policy.vocab_size, self._policy.trunk
        )
        return [replace(r, candidate_ids=c) for r, c in zip(rollouts, candidates, strict=True)]

    def with_entropy(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts with this version's entropy at every position."""
        entropies = student_entropy(
            self._model, rollouts, self._policy.vocab_size, self._policy.trunk
        )
        return [replace(r, entropy_T=h) for r, h in zip(rollouts, entropies, strict=True)]

    def continuations(
        self,
        prompts: Sequence[Sequence[int]],
        forced_prefixes: Sequence[Sequence[int]],
        *,
        params: SamplingParams,
        generator: torch.Generator,
    ) -> list[Generation]:
        """One response to each prompt, whose first tokens are given."""
        return self._sampler.sample(prompts, params, generator, forced_prefixes)

    def rollouts(
        self,
        problems: Sequence[Problem],
        payloads: Sequence[str],
        *,
        num_samples: int,
        params: SamplingParams,
        generator: torch.Generator,
        prefix: str,
        step: int,
    ) -> list[Rollout]:
        """One group of rollouts per problem; ids are `{prefix}-{problem}-{sample}`."""
        prompts = [self.prompt_ids(problem) for problem in problems]
        groups = self._groups(prompts, num_samples, params, generator)
        return [
            Rollout(
                rollout_id=f"{prefix}-{g}-{i}",
                group_id=f"{prefix}-{g}",
                group=g,
                problem=problem,
                payload_sha256=payload,
                prompt_ids=prompt,
                response_ids=generation.response_ids,
                response_text=self._policy.decode(generation.response_ids.tolist()),
                behaviour_logprobs=generation.logprobs,
                owned=np.ones(len(generation.response_ids), np.bool_),
                finish_reason=generation.finish_reason,
                step=step,
                weights=self.version,
            )
            for g, (problem, payload, prompt, group) in enumerate(
                zip(problems, payloads, prompts, groups, strict=True)
            )
            for i, generation in enumerate(group)
        ]
