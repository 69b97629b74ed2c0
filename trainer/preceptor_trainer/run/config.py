"""The configuration of a run: what to train, on what, with which experts, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

from pydantic import TypeAdapter, ValidationError

from preceptor_clients.contract.schemas import Name
from preceptor_trainer.collect.context import ContextPolicy
from preceptor_trainer.collect.dynamic_sampling import DynamicSampling
from preceptor_trainer.collect.labelling import ExpertUse
from preceptor_trainer.collect.participant import Joins
from preceptor_trainer.collect.prompts import WhenLonger
from preceptor_trainer.collect.rollout_sources import OnPolicy, RolloutSource
from preceptor_trainer.collect.self_evaluation import SelfEvaluation
from preceptor_trainer.collect.student import MakeSampler
from preceptor_trainer.environments.environment import Dialogue
from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.kit.placement import Precision
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.learner.lora import Lora
from preceptor_trainer.model.heads.by_size import head_by_size
from preceptor_trainer.model.heads.head import Head
from preceptor_trainer.objectives import Objective, weighs_gains
from preceptor_trainer.run.boards import BoardName, load_library
from preceptor_trainer.run.schedules import Deterministic, Schedule
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.tasks.task import Problem, Task

_NAME: Final = TypeAdapter(Name)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run.

    Recipes build it; the resolved value is written beside the run's outputs.
    """

    name: str
    """Also the policy's name space for weights."""
    seed: int
    """Decides problems, their order, and every sample."""
    model: Path
    """Folder of the student, in Hugging Face format."""
    problems: Callable[[int], Sequence[Problem]]
    """Step to that step's problems, a pure function."""
    evaluation: EvaluationConfig | None
    """Held-out problems and how they are answered; None for a run that is not evaluated."""
    objective: Objective
    """What is minimised."""
    optimiser: OptimiserConfig
    """Settings of the optimiser."""
    lora: Lora | None = None
    """Trains an adapter in the place of all weights; None trains all."""
    experts: tuple[ExpertUse, ...]
    """Experts whose answers become targets; empty for objectives that learn from rewards, or from
    given answers, alone."""
    task: Task
    """Names the feedback sources, scores an attempt, and decides when it counts as solved."""
    self_evaluations: tuple[SelfEvaluation, ...] = ()
    """Sources of the task that are the policy itself."""
    context: ContextPolicy
    """What each expert may see."""
    steps: int = 40
    """Optimiser steps."""
    rollouts_per_problem: int = 8
    """Size of a group."""
    rollout_source: RolloutSource = OnPolicy()
    """Where rollouts come from: the student alone, or in part right answers given to it."""
    dialogue: Dialogue | None = None
    """Tools or an environment that answer the student within an attempt; None for attempts of one
    turn."""
    sampler: MakeSampler | None = None
    """Makes the sampler of the responses; None draws them in the trainer's own process."""
    dynamic_sampling: DynamicSampling | None = None
    """Replaces groups without signal by groups of further problems of the step; None trains on all
    groups. `GRPO.dynamic_sampling` is another setting: it leaves such groups out of the count."""
    participants: tuple[Joins, ...] = ()
    """Participants beside the experts: people (`PeopleConfig`), probes, a rule that ends the
    run."""
    sampling: SamplingParams = SamplingParams()
    """How responses are sampled; the exact objective requires temperature 1 and no truncation."""
    token_budget: int = 4_096
    """Padded tokens per forward and backward pass."""
    packing: bool = False
    """Whether the update computes no padding: rows share a sequence, prompts are read once, and
    batches have equal numbers of real tokens. Results are the same up to the order of summation."""
    checkpointing: bool = False
    """Whether the update keeps what enters each layer alone, and computes the rest again in the
    backward pass: about a tenth of the activations for a third more time. Results are the same up
    to the order of summation."""
    head: Head = head_by_size
    """How log-probs and their gradient are computed from hidden states: `head_by_size` holds all
    logits of a call where they are few, and chunks of at most 256 MiB of them elsewhere;
    `LeanHead()` always chunks, `dense_head` always all."""
    schedule: Schedule = Deterministic()
    """How collecting and training interleave."""
    checkpoint_every: int = 10
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints that stay on disk, with their weights; the first version stays too."""
    log: tuple[BoardName, ...] = ("tensorboard",)
    """Boards that show the metrics, beside the run's own files: `tensorboard`, and the extras
    `wandb` and `trackio`."""
    timeout_s: float = 300.0
    """Longest wait for feedback, and for experts."""
    max_failed: float = 0.25
    """Largest share of a step's attempts that may be without a reward because a source failed;
    beyond it the run stops with the reason."""
    threads: int = 2
    """Threads of torch; part of what makes a run repeatable."""
    ranks: int = field(default=1, repr=False)
    """Processes that share the update, each on a GPU of its own where there are GPUs. A run may go
    on with another number."""
    device: str = "auto"
    """Torch device of the student; `auto` is the GPU where torch sees one, else the CPU."""
    dtype: Precision = "float32"
    """Data type of the student's passes; weights, optimiser state and losses are float32 in any
    case."""
    publish: Precision = "float32"
    """Data type of the versions that experts and a sampling service load. With bfloat16 they are
    half as large, and the trainer's sampler computes with the rounded weights too; checkpoints keep
    all of float32. Without effect where the trainer alone loads versions."""
    scratch: Path | None = None
    """Folder for the versions between checkpoints, such as one in shared memory; where absent they
    are in the run's folder. Services that load versions must be allowed to read it. Not with a
    schedule that overlaps steps, whose checkpoints may need these versions."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further variables of the chat template, such as `{"enable_thinking": False}`; experts with a
    template of their own take the same as an option."""
    max_prompt: int | None = None
    """Most tokens of a prompt; where absent, as many as leave room for a response in the model's
    positions."""
    long_prompts: WhenLonger = "skip"
    """Longer prompts are left out (`skip`), or lose the beginning of their last user turn (`cut`);
    either is counted in the metrics."""

    @property
    def sources(self) -> Sequence[str]:
        """The feedback sources of the task."""
        return self.task.sources

    def __post_init__(self) -> None:
        try:
            _NAME.validate_python(self.name)
        except ValidationError:
            raise ValueError(
                f"name: {self.name!r} is not a letter or digit, then up to 63 letters, digits, "
                "dots, hyphens or underscores"
            ) from None
        self.objective.check(self)
        self._check_values()
        for board in self.log:
            if board != "tensorboard":
                load_library(board)
        self._check_schedule()
        self._check_optimiser()
        for evaluation in self.self_evaluations:
            if evaluation.name not in self.sources:
                raise ValueError(f"self_evaluations: the task has no source {evaluation.name!r}")
        if self.publish != "float32" and self.lora is not None:
            raise ValueError(
                "publish: not together with lora, whose versions after the first are an adapter, a "
                "few MB in float32"
            )
        if self.dynamic_sampling is not None:
            self._check_dynamic_sampling()

    def _check_values(self) -> None:
        """Each value by itself."""
        for name, value in (
            ("steps", self.steps),
            ("rollouts_per_problem", self.rollouts_per_problem),
            ("checkpoint_every", self.checkpoint_every),
            ("keep", self.keep),
            ("ranks", self.ranks),
            ("max_prompt", self.max_prompt),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, not {value}")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"max_failed: {self.max_failed} is outside 0..1")
        for name, value, allowed in (
            ("dtype", self.dtype, get_args(Precision)),
            ("publish", self.publish, get_args(Precision)),
            ("long_prompts", self.long_prompts, get_args(WhenLonger)),
            *(("log", board, get_args(BoardName)) for board in self.log),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}")

    def _check_schedule(self) -> None:
        """What needs steps that overlap, or steps that do not."""
        overlaps = self.schedule.overlapped is not None
        hurried = [expert.name for expert in self.experts if expert.deadline_s is not None]
        if hurried and not overlaps:
            raise ValueError(
                f"deadline_s of expert {hurried[0]!r}: steps that take turns wait for every "
                "answer; overlap them (`[rollout] staleness`, `Overlapped`)"
            )
        if self.scratch is not None and overlaps:
            raise ValueError(
                "scratch: needs staleness 0 (`Deterministic`); with more, a checkpoint has groups "
                "that wait for answers about versions before it, which would be lost with the "
                "scratch folder"
            )
        if getattr(self.sampler, "sleeps", False) and overlaps:
            raise ValueError(
                "sampler.sleeps: needs staleness 0 (`Deterministic`); with more, attempts are "
                "drawn during the update"
            )

    def _check_optimiser(self) -> None:
        if self.checkpointing and self.lora is not None and self.lora.dropout:
            raise ValueError(
                "checkpointing: not together with lora.dropout, which would drop other inputs when "
                "a layer is computed again"
            )
        if self.optimiser.moments == "host" and self.ranks > 1:
            raise ValueError(
                f"moments: `host` is for one process, and there are {self.ranks} ranks; "
                "they divide moments of float32 or bfloat16 between them"
            )
        if getattr(self.sampler, "shared", False) and self.lora is None:
            raise ValueError(
                "sampler.shared: runs share a server only with adapters; train one (`model.lora`)"
            )
        decay_until = self.optimiser.decay_until
        if decay_until is not None and decay_until < self.steps:
            raise ValueError(
                f"optimiser.decay_until: {decay_until} leaves a rate of zero for the rest of "
                f"{self.steps} steps"
            )

    def _check_dynamic_sampling(self) -> None:
        if not self.sources:
            raise ValueError("dynamic_sampling: needs sources that score, and there are none")
        num_given = math.ceil(self.rollout_source.given_share * self.rollouts_per_problem)
        num_sampled = self.rollouts_per_problem - num_given
        if num_sampled < 2:
            raise ValueError(
                f"dynamic_sampling: {num_sampled} of a group's {self.rollouts_per_problem} "
                "rollouts are sampled, and only scores of two can differ"
            )
        if any(participant.adds_rollouts for participant in self.participants):
            raise ValueError(
                "dynamic_sampling: not together with participants that add rollouts, such as "
                "people: their rollouts belong to no group of the step"
            )


def describe_run(config: RunConfig) -> dict[str, Any]:
    """The configuration as a run's record has it: with what the objective's advantages are."""
    described: dict[str, Any] = describe(config)
    objective = described["objective"]
    # One that is no dataclass is described by its name alone.
    if isinstance(objective, dict) and weighs_gains(config.objective):
        described["objective"] = {**objective, "advantages": "gains"}
    return described


_SENT: Final = ("sent", "broadcast")


def sampler_reads_files(config: RunConfig) -> bool:
    """Whether another process draws responses and reads each version's files for that."""
    return config.sampler is not None and getattr(config.sampler, "weights", None) not in _SENT


def others_read_versions(config: RunConfig) -> bool:
    """Whether processes beside the trainer read each version's files: experts, or the sampler."""
    return bool(config.experts) or sampler_reads_files(config)


def rounds_versions(config: RunConfig) -> bool:
    """Whether versions hold other numbers than the learner's float32 weights."""
    others = bool(config.experts) or config.sampler is not None
    return config.publish == "bfloat16" and others


def describe(value: Any) -> Any:
    """A configuration as JSON values: dataclasses with their class, long lists by their length.

    Fields that are left out of `repr` are left out here too.
    """
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: describe(getattr(value, f.name)) for f in fields(value) if f.repr}
        return {"class": type(value).__name__, **named}
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        named = cast("Mapping[str, Any]", value)
        # Not an empty mapping, which would have no name to compare with a later start.
        return {name: describe(one) for name, one in named.items()} or None
    if isinstance(value, Sequence):
        items = cast("Sequence[Any]", value)
        return [describe(v) for v in items] if len(items) <= 16 else f"{len(items)} items"
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return repr(value)
