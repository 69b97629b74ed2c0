"""Makes a run's configuration and its deployment of what a file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from preceptor_clients.contract.deployment import Deployment
from preceptor_trainer.collect.dynamic_sampling import DynamicSampling
from preceptor_trainer.collect.rollout_sources import OnPolicy, References, RolloutSource
from preceptor_trainer.data.epochs import Epochs
from preceptor_trainer.data.rows import Rows
from preceptor_trainer.deployment.local import own_deployment
from preceptor_trainer.evaluation.held_out import EvaluationConfig
from preceptor_trainer.learner.learner import OptimiserConfig
from preceptor_trainer.learner.policy import passing_folder
from preceptor_trainer.objectives import Objective
from preceptor_trainer.recipes.references import reference_texts
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.schedules import Deterministic, Overlapped, Schedule
from preceptor_trainer.runfile.objectives import OBJECTIVES, objective_of, takes
from preceptor_trainer.runfile.problems import Data, read_data
from preceptor_trainer.runfile.schema import ENVIRONMENT_USE, RolloutSection, RunFile
from preceptor_trainer.runfile.sources import Sources, make_sources
from preceptor_trainer.runfile.students import (
    check_adapter,
    check_ranks,
    longest_prompt,
    model_folder,
    prompt_counter,
    scratch_folder,
)
from preceptor_trainer.runfile.teachers import Teachers, make_teachers
from preceptor_trainer.runfile.tools import FileTools, make_tools
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.sampling.server import SampledByServer
from preceptor_trainer.sampling.service import SampledByService

WEIGHTS: Final = "weights"
"""Folder of the run's weights, in that of the run."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a file describes."""

    config: RunConfig
    deployment: Deployment
    """The services of the run on this machine."""
    rows: tuple[str, ...]
    """The data in words, one line for each part."""
    notes: tuple[str, ...]
    """What a user has to know before it starts, one sentence each."""


def build(run_file: RunFile, folder: Path, *, name: str, run_dir: Path) -> Built:
    """The run that a file describes.

    Args:
        run_file: The file.
        folder: What its relative paths are relative to.
        name: Name of the run.
        run_dir: Folder of the run.

    Raises:
        ValueError: something that the file names does not exist, or does not fit.
    """
    run_file = _with_verdict(run_file)
    learns_from = OBJECTIVES[run_file.objective.use].learns_from
    in_view = _reference_in_view(run_file)
    _check_feedback(run_file, learns_from, in_view=in_view)
    model = model_folder(run_file.model.path, folder)
    tools = make_tools(run_file, model, folder)
    run_file = _with_variables(run_file, tools.variables)
    check_ranks(run_file.run.ranks, run_file.model.device)
    if run_file.model.lora is not None:
        check_adapter(model, run_file.model.lora.made())
    limit = longest_prompt(model, run_file.data.max_prompt, run_file.rollout.max_tokens)
    count = prompt_counter(model, run_file.data.chat_template_kwargs)
    data = read_data(run_file, folder, count, limit)
    sources = make_sources(run_file.feedback, folder)
    teachers = (
        Teachers()
        if learns_from == "rewards" or _only_imitates(run_file)
        else make_teachers(run_file, model, folder, run_dir, in_view=in_view)
    )
    parts = _Parts(model, folder, data, sources, teachers, tools)
    config = _config(run_file, parts, name)
    late = None if teachers.people is None else teachers.people.expert
    deployment = own_deployment(
        teachers.services,
        weights_roots=_weights_roots(config, run_dir),
        sources={**tools.services, **sources.services},
        late=late,
    )
    return Built(
        config=config,
        deployment=deployment,
        rows=_rows(data, tools),
        notes=_notes(run_file, data, teachers, tools),
    )


def _with_verdict(run_file: RunFile) -> RunFile:
    """The file with its environment as the judge, where it names none."""
    feedback = run_file.feedback
    if run_file.environment is None or feedback.use or feedback.sources:
        return run_file
    update = {"feedback": feedback.model_copy(update={"use": (ENVIRONMENT_USE,)})}
    return run_file.model_copy(update=update)


def _with_variables(run_file: RunFile, variables: Mapping[str, Any]) -> RunFile:
    """The file with further variables of the chat template, for the student and its teachers."""
    if not variables:
        return run_file
    data = run_file.data
    merged = {**variables, **data.chat_template_kwargs}
    return run_file.model_copy(
        update={"data": data.model_copy(update={"chat_template_kwargs": merged})}
    )


class _Parts(NamedTuple):
    """What a file names, found."""

    model: Path
    folder: Path
    """What relative paths are relative to."""
    data: Data
    sources: Sources
    teachers: Teachers
    tools: FileTools


def _config(run_file: RunFile, parts: _Parts, name: str) -> RunConfig:
    data, sources, teachers = parts.data, parts.sources, parts.teachers
    rollout, optim, run = run_file.rollout, run_file.optim, run_file.run
    replaces = rollout.more_prompts is not None
    per_step = optim.prompts_per_step + (rollout.more_prompts or 0)
    if per_step > len(data.train):
        raise ValueError(
            f"optim.prompts_per_step: a step takes {per_step} prompts, but there are only "
            f"{len(data.train)} training rows"
        )
    return RunConfig(
        name=name,
        seed=run.seed,
        model=parts.model,
        problems=Epochs(
            rows=data.train, seed=run.seed, per_step=per_step, shuffle=run_file.data.shuffle
        ),
        evaluation=_evaluation(run_file, data.held_out, sources),
        objective=_objective(run_file, taught=bool(teachers.uses)),
        optimiser=OptimiserConfig(
            lr=optim.lr,
            warmup_steps=optim.warmup_steps,
            decay_until=run.steps if optim.decay and run.steps > optim.warmup_steps else None,
            weight_decay=optim.weight_decay,
            max_grad_norm=optim.max_grad_norm,
            moments=optim.moments,
        ),
        lora=None if run_file.model.lora is None else run_file.model.lora.made(),
        experts=teachers.uses,
        task=sources.task,
        self_evaluations=sources.own,
        context=teachers.context,
        participants=() if teachers.people is None else (teachers.people,),
        steps=run.steps,
        rollouts_per_problem=_group_size(run_file),
        rollout_source=_rollout_source(run_file),
        dialogue=parts.tools.dialogue,
        sampler=_sampler(rollout, parts.folder),
        dynamic_sampling=DynamicSampling(groups=optim.prompts_per_step) if replaces else None,
        sampling=_sampling(run_file),
        token_budget=optim.tokens_per_microbatch,
        packing=optim.packing,
        checkpointing=optim.checkpointing,
        schedule=_schedule(rollout),
        checkpoint_every=run.save_every,
        keep=run.keep,
        log=run.log,
        timeout_s=run.timeout_s,
        max_failed=run_file.feedback.max_failed,
        ranks=run.ranks,
        threads=run.threads,
        device=run_file.model.device,
        dtype=run_file.model.dtype,
        publish=run_file.model.publish,
        scratch=scratch_folder(run_file, parts.folder),
        chat_template_kwargs=run_file.data.chat_template_kwargs,
        max_prompt=run_file.data.max_prompt,
        long_prompts=run_file.data.long_prompts,
    )


def _weights_roots(config: RunConfig, run_dir: Path) -> list[Path]:
    """Where versions are; a relative one is in the run's folder, beside the settings."""
    scratch, own = config.scratch, run_dir / WEIGHTS
    return [Path(WEIGHTS), *([] if scratch is None else [passing_folder(scratch, own)])]


def _schedule(rollout: RolloutSection) -> Schedule:
    if not rollout.staleness:
        return Deterministic()
    return Overlapped(
        staleness=rollout.staleness,
        deadline_s=rollout.deadline_s,
        # A file that only allows more steps ahead need not name the other bound too.
        join_within=max(rollout.join_within, rollout.staleness),
    )


def _evaluation(
    run_file: RunFile, held_out: Rows | None, sources: Sources
) -> EvaluationConfig | None:
    if held_out is None or not sources.task.sources:
        return None
    samples = run_file.run.eval_samples
    ks = run_file.run.eval_ks or tuple(sorted({1, samples}))
    return EvaluationConfig(
        problems=held_out,
        num_samples=samples,
        ks=ks,
        sampling=_sampling(run_file),
        every=run_file.run.eval_every,
    )


def _objective(run_file: RunFile, *, taught: bool) -> Objective:
    options: dict[str, Any] = dict(run_file.objective.options)
    if run_file.objective.use == "distil":
        # Only scales the loss, so that it is comparable between lengths.
        options.setdefault("length_constant", float(run_file.rollout.max_tokens))
    model = run_file.model
    rounded = taught and model.publish == "bfloat16" and model.dtype != "bfloat16"
    differs = rounded or run_file.rollout.sampler is not None
    if differs and takes(run_file.objective.use, "importance"):
        # Rounded weights, or another engine's arithmetic, are another distribution, if only by
        # hundredths of a nat.
        options.setdefault("importance", {})
    return objective_of(run_file.objective.use, options)


def _sampling(run_file: RunFile) -> SamplingParams:
    rollout = run_file.rollout
    return SamplingParams(
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.max_tokens,
    )


def _sampler(rollout: RolloutSection, folder: Path) -> SampledByService | SampledByServer | None:
    wanted = rollout.sampler
    if wanted is None:
        return None
    key_file = None if wanted.key_file is None else folder / wanted.key_file.expanduser()
    where: dict[str, Any] = {
        "url": wanted.url,
        "key_file": key_file,
        "timeout_s": wanted.timeout_s,
        "sleeps": wanted.sleeps,
    }
    if wanted.kind != "service":
        return SampledByServer(
            kind=wanted.kind, shared=wanted.shared, weights=wanted.weights, **where
        )
    if wanted.shared:
        raise ValueError(
            'rollout.sampler.shared: is for `kind = "vllm"` and `"sglang"`; a service answers '
            "several runs without it, and loads a version anew where the run changes"
        )
    if wanted.weights != "files":
        raise ValueError(
            'rollout.sampler.weights: is for `kind = "vllm"`; a service reads the files of versions'
        )
    return SampledByService(**where)


def _group_size(run_file: RunFile) -> int:
    given = "n" in run_file.rollout.model_fields_set
    # A row has one reference, and a copy of it teaches nothing.
    return 1 if _only_imitates(run_file) and not given else run_file.rollout.n


def _rollout_source(run_file: RunFile) -> RolloutSource:
    share = 1.0 if _only_imitates(run_file) else run_file.rollout.given_share
    return References(texts_of=reference_texts, share=share) if share else OnPolicy()


def _only_imitates(run_file: RunFile) -> bool:
    return OBJECTIVES[run_file.objective.use].learns_from == "references"


def _reference_in_view(run_file: RunFile) -> bool:
    wanted = run_file.teacher.reference
    return run_file.objective.use == "opsd" if wanted is None else wanted


def _check_feedback(run_file: RunFile, learns_from: str, *, in_view: bool) -> None:
    use = run_file.objective.use
    has_sources = bool(run_file.feedback.use or run_file.feedback.sources)
    if learns_from in ("rewards", "both") and not has_sources:
        raise ValueError(
            f"feedback.use: is missing, and {use} learns from rewards; name a verifier, or a "
            "function of yours as FILE.py:NAME"
        )
    needs_reference = in_view or _only_imitates(run_file) or run_file.rollout.given_share > 0
    if needs_reference and run_file.data.reference is None:
        why = f"{use} imitates it" if _only_imitates(run_file) else "the teacher or a group gets it"
        raise ValueError(f"data.reference: is missing: name the column with the answer; {why}")
    teacher = run_file.teacher
    asks_itself = teacher.self is not None or (teacher.model is None and teacher.server is None)
    if learns_from == "teacher" and asks_itself and not (has_sources or in_view):
        raise ValueError(
            "feedback.use: is missing, so that the self-teacher would see no more than the "
            "student; name a verifier, a function of yours as FILE.py:NAME, or another teacher"
        )


def _rows(data: Data, tools: FileTools) -> tuple[str, ...]:
    parts = [("trains on  ", data.train), ("held out   ", data.held_out)]
    rows = [f"{word}{r.source}, {len(r)} rows" for word, r in parts if r is not None]
    return (*rows, *(() if tools.row is None else (tools.row,)))


def _notes(run_file: RunFile, data: Data, teachers: Teachers, tools: FileTools) -> tuple[str, ...]:
    notes = list(data.dropped)
    if tools.note is not None:
        notes.append(tools.note)
    if data.held_out is None:
        notes.append("no rows are held out (data.eval), so the run is not evaluated")
    if not teachers.uses and "teacher" in run_file.model_fields_set:
        notes.append(f"{run_file.objective.use} asks no teacher, so [teacher] is not used")
    return tuple(notes)
