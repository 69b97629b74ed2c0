"""What a run will hold in memory, computed before it begins.

    plan = memory_plan(config)
    plan.most                       # ("update", 5_300_000_000)

The trainer's process alone, by its large parts: weights and what belongs to them from the model's
sizes, the rest from the run's settings and the longest of its first prompts. Runs record what they
really held in each phase (`peak_memory.py`), and tests compare both. Left out: what an environment
or a tool holds, masks of attention, and what the allocator loses between tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, cast

from transformers import AutoTokenizer

from preceptor_clients.sdk.chat_encoding import ChatEncoder
from preceptor_trainer.kit.placement import placement
from preceptor_trainer.learner.lora import ALL_LINEAR
from preceptor_trainer.model.heads.by_size import HeadBySize
from preceptor_trainer.model.heads.lean import LeanHead
from preceptor_trainer.model.shape import Shape, shape_of
from preceptor_trainer.run.config import RunConfig, rounds_versions
from preceptor_trainer.sampling.local import MAX_ROWS
from preceptor_trainer.tasks.task import Problem

PHASES: Final = ("sampling", "update", "publish", "evaluation")
PROGRAM_BYTES: Final = 550_000_000
"""Python with torch and transformers, before a model is loaded."""
_LOOKED_AT: Final = 256
"""Prompts whose lengths are counted."""
_DRAW_BYTES: Final = 24
"""A logit while a token is drawn: logits, log-probs and probabilities in float32, sums in
float64."""
_DENSE_COPIES: Final = 4


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that is held."""

    name: str
    num_bytes: int
    phases: tuple[str, ...] = PHASES
    """When it is held."""
    note: str = ""
    """How large it is, in other words."""
    keys: tuple[str, ...] = ()
    """Keys of a run's file that change it."""
    on_host: bool = False
    """Whether it is in the machine's memory, also where the run computes on a GPU."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What the trainer's process will hold."""

    device: str
    parts: tuple[Part, ...]
    longest_prompt: int
    """Tokens of the longest prompt that was looked at."""

    @property
    def peaks(self) -> dict[str, int]:
        """Bytes by phase where the run computes: on the GPU, or in the machine's memory."""
        here = [part for part in self.parts if self.device == "cpu" or not part.on_host]
        return {
            phase: sum(part.num_bytes for part in here if phase in part.phases) for phase in PHASES
        }

    @property
    def most(self) -> tuple[str, int]:
        """The phase that needs most, and its bytes."""
        return max(self.peaks.items(), key=lambda peak: peak[1])


def memory_plan(config: RunConfig) -> MemoryPlan:
    """The plan of a run.

    Raises:
        ValueError: the run's device does not exist.
    """
    shape = shape_of(config.model)
    prompt = longest_prompt(config)
    device = placement(device=config.device, dtype=config.dtype).device.type
    parts = (*_weights(config, shape, device), *_update(config, shape, prompt))
    parts += _drawn(config, shape, prompt)
    program = Part(name="program", num_bytes=PROGRAM_BYTES, on_host=True)
    return MemoryPlan(device=device, parts=(program, *parts), longest_prompt=prompt)


def longest_prompt(config: RunConfig) -> int:
    """Tokens of the longest of the run's first prompts that fit."""
    encoder = ChatEncoder(
        cast("Any", AutoTokenizer).from_pretrained(config.model), config.chat_template_kwargs
    )
    held_out = () if config.evaluation is None else config.evaluation.problems
    steps = min(config.steps, max(1, _LOOKED_AT // max(1, len(config.problems(0)))))
    trained = chain.from_iterable(config.problems(step) for step in range(steps))
    problems: list[Problem] = [*islice(trained, _LOOKED_AT), *islice(held_out, _LOOKED_AT)]
    lengths = [len(encoder.chat_ids(problem.messages)) for problem in problems]
    return min(max(lengths), config.max_prompt or max(lengths))


def _weights(config: RunConfig, shape: Shape, device: str) -> tuple[Part, ...]:
    whole = 4 * shape.num_parameters
    trained = 4 * num_trained(config, shape)
    if device != "cpu":
        trained //= config.ranks  # each has its own GPU; on a CPU they share the memory
    versions = 1 + min(1, getattr(config.schedule, "staleness", 0))
    rounded = rounds_versions(config)
    parts = [
        Part(name="weights, float32", num_bytes=whole),
        Part(
            name="gradients",
            num_bytes=trained,
            phases=("update",),
            keys=("model.lora",),
        ),
        _moments(config, trained, device),
        Part(
            name="published weights, which sample",
            num_bytes=versions * (whole // 2 if rounded else whole),
            keys=("rollout.staleness",) if versions > 1 else (),
        ),
        Part(
            name="the next version beside them",
            num_bytes=whole * (1 if config.lora is None else 2),
            phases=("publish",),
        ),
    ]
    if config.ranks > 1 and device == "cpu":
        parts.append(Part(name="the other ranks", num_bytes=PROGRAM_BYTES * (config.ranks - 1)))
    if config.dtype == "bfloat16":
        lower = 2 * shape.num_parameters
        parts.append(Part(name="weights of a pass, bfloat16", num_bytes=lower, phases=("update",)))
    if rounded != (config.dtype == "bfloat16"):
        # Where both are of one type the sampler computes with the published tensors.
        own = 4 if config.dtype == "float32" else 2
        parts.append(
            Part(
                name=f"the sampler's weights, {config.dtype}",
                num_bytes=own * shape.num_parameters,
                keys=("model.publish",) if rounded else (),
            )
        )
    if config.lora is not None:
        parts.append(Part(name="the adapter", num_bytes=trained))
    return tuple(parts)


def _moments(config: RunConfig, trained: int, device: str) -> Part:
    kind = config.optimiser.moments
    keys = ("model.lora", "optim.moments")
    if kind == "host" and device != "cpu":
        # With the weights and gradients of a step.
        name = "moments and a step's weights, in main memory"
        return Part(name=name, num_bytes=4 * trained, keys=keys, on_host=True)
    num_bytes = trained if kind == "bfloat16" else 2 * trained
    return Part(name="optimiser's moments", num_bytes=num_bytes, keys=keys)


def num_trained(config: RunConfig, shape: Shape) -> int:
    """Numbers that the optimiser changes."""
    lora = config.lora
    if lora is None:
        return shape.num_parameters
    targets = None if lora.targets == (ALL_LINEAR,) else lora.targets
    return shape.num_adapter(lora.rank, targets)


def _update(config: RunConfig, shape: Shape, prompt: int) -> tuple[Part, ...]:
    rows, tokens = _microbatch(config, prompt)
    layer = 6 * shape.hidden + 6 * shape.queries + 4 * shape.keys + 4 * shape.inner
    # Under autocast the products are in 16 bits, norms and sums in 32.
    width = 3 if config.dtype == "bfloat16" else 4
    kept = shape.hidden if config.checkpointing else layer
    again = layer if config.checkpointing else 0
    around = 4 * shape.hidden  # the embedding's output, and the last norm
    activations = width * tokens * (shape.num_layers * kept + again + around)
    positions = rows * config.sampling.max_new_tokens
    return (
        Part(
            name="activations of a micro-batch",
            num_bytes=activations,
            phases=("update",),
            note=f"{tokens:,} tokens",
            keys=("optim.tokens_per_microbatch", "optim.checkpointing"),
        ),
        Part(
            name="the head's logits and gradient",
            num_bytes=_head(config, shape, 4 * positions * shape.vocabulary),
            phases=("update",),
            note=f"{positions:,} positions",
            keys=("optim.tokens_per_microbatch",),
        ),
    )


def _microbatch(config: RunConfig, prompt: int) -> tuple[int, int]:
    """Rows of the largest micro-batch, and the tokens that are computed for it."""
    response, group = config.sampling.max_new_tokens, config.rollouts_per_problem
    row = prompt + response
    rows = min(max(1, config.token_budget // row), group * len(config.problems(0)))
    if config.checkpointing and not config.packing:
        return rows, rows * row
    # Each prompt is read once.
    return rows, math.ceil(rows / group) * prompt + rows * response


def _head(config: RunConfig, shape: Shape, logits: int) -> int:
    head = config.head
    # Where embeddings are tied, the head's gradient is apart until it is added to theirs.
    gradient = 4 * shape.num_embedding if shape.is_tied and config.lora is None else 0
    if isinstance(head, HeadBySize) and logits > head.dense_bytes:
        head = head.lean
    if isinstance(head, LeanHead):
        return min(logits, head.chunk_bytes) + gradient
    return _DENSE_COPIES * logits + gradient


def _drawn(config: RunConfig, shape: Shape, prompt: int) -> tuple[Part, ...]:
    if config.sampler is not None:
        return ()
    group, contexts = config.rollouts_per_problem, len(config.problems(0))
    parts = [
        Part(
            name="cache and logits of sampling",
            num_bytes=_drawing(shape, contexts, group, prompt, config.sampling.max_new_tokens),
            phases=("sampling",),
            note=f"{min(MAX_ROWS, contexts * group)} rows",
            keys=("rollout.n", "optim.prompts_per_step"),
        )
    ]
    evaluation = config.evaluation
    if evaluation is not None:
        contexts = min(evaluation.batch_problems, len(evaluation.problems))
        num_samples, response = evaluation.num_samples, evaluation.sampling.max_new_tokens
        parts.append(
            Part(
                name="cache and logits of evaluation",
                num_bytes=_drawing(shape, contexts, num_samples, prompt, response),
                phases=("evaluation",),
                note=f"{min(MAX_ROWS, contexts * num_samples)} rows",
                keys=("run.eval_samples",),
            )
        )
    return tuple(parts)


def _drawing(shape: Shape, contexts: int, group: int, prompt: int, response: int) -> int:
    """Keys and values, the largest logits, and the attention scores of a layer's prompts."""
    rows = min(MAX_ROWS, contexts * group)
    contexts = min(contexts, math.ceil(rows / group))
    cache = 8 * shape.num_layers * shape.keys * (contexts * prompt + rows * response)
    scores = 12 * contexts * shape.num_heads * prompt**2
    return cache + scores + _DRAW_BYTES * rows * shape.vocabulary


def gigabytes(num_bytes: float) -> str:
    """`5.3 GB`."""
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:.0f} GB"


def in_words(plan: MemoryPlan) -> str:
    """The largest phase and its three largest parts."""
    phase, most = plan.most
    largest = [f"{part.name} {gigabytes(part.num_bytes)}" for part in listed(plan.parts, phase)[:3]]
    return f"{gigabytes(most)} ({phase}): {', '.join(largest)}; all of it: preceptor plan"


def listed(parts: Sequence[Part], phase: str) -> list[Part]:
    """The parts of a phase, the largest first."""
    held = (part for part in parts if phase in part.phases)
    return sorted(held, key=lambda part: -part.num_bytes)
