"""The feedback of a file: the services that judge, and the task that makes a reward of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from preceptor_clients.contract.deployment import DeployedService, local_service
from preceptor_clients.contract.sections import nearest
from preceptor_clients.sdk.judging import check_judge, verifiers
from preceptor_clients.sdk.rubrics.rubric import make_rubric
from preceptor_trainer.collect.self_evaluation import SelfEvaluation
from preceptor_trainer.deployment.local import EXECUTOR_CLASS
from preceptor_trainer.runfile.schema import (
    ENVIRONMENT_USE,
    EXECUTOR_USE,
    JUDGE_USE,
    SELF_USE,
    FeedbackSection,
    SourceSection,
)
from preceptor_trainer.tasks.combined import CombinedTask
from preceptor_trainer.tasks.task import NOT_JUDGED, ScoredTask, Task

JUDGE_CLASS: Final = "preceptor_services.feedback.judge.source:Judge"
ENVIRONMENT_CLASS: Final = "preceptor_services.feedback.environment:EnvironmentVerdict"
FUNCTION_CLASS: Final = "preceptor_services.feedback.function:Function"
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Who judges, and how."""

    task: Task
    services: Mapping[str, DeployedService]
    own: tuple[SelfEvaluation, ...] = ()
    """Sources that are the policy itself."""


def make_sources(feedback: FeedbackSection, folder: Path) -> Sources:
    """The sources that a file names.

    Raises:
        ValueError: a function or verifier does not exist, or two sources have one name.
    """
    named = _named(feedback)
    services = {
        name: _service(name, source, folder)
        for name, source in named.items()
        if source.use != SELF_USE
    }
    own = tuple(_self(name, source) for name, source in named.items() if source.use == SELF_USE)
    return Sources(task=_task(feedback, named), services=services, own=own)


def _named(feedback: FeedbackSection) -> dict[str, SourceSection]:
    named = dict[str, SourceSection]()
    # What a file leaves out has the default of the source's kind.
    given: dict[str, Any] = {
        key: getattr(feedback, key)
        for key in ("timeout_s", "workers")
        if key in feedback.model_fields_set
    }
    for use in feedback.use:
        name = _name_of(use)
        if name in named:
            raise ValueError(f"feedback.use: two sources would be called {name!r}; give each a "
                             "table [feedback.sources.NAME]")  # fmt: skip
        named[name] = SourceSection(use=use, options=feedback.options, **given)
    for name, source in feedback.sources.items():
        if name in named:
            raise ValueError(f"feedback.sources.{name}: `use` names a source {name!r} too")
        named[name] = source
    return named


def _name_of(use: str) -> str:
    """`judge` of `my/judge.py:judge`, and a verifier's own name."""
    return _NOT_IN_NAMES.sub("-", use.rpartition(":")[2]).strip("-._") or "judge"


def _service(name: str, source: SourceSection, folder: Path) -> DeployedService:
    if source.use == EXECUTOR_USE:
        own: dict[str, Any] = {"name": name, "workers": source.workers}
        return local_service(name, EXECUTOR_CLASS, {**own, **source.options})
    if source.use == ENVIRONMENT_USE:
        return local_service(name, ENVIRONMENT_CLASS, {"name": name})
    if source.use == JUDGE_USE:
        return local_service(name, JUDGE_CLASS, _judge_options(name, source, folder))
    options: dict[str, Any] = {
        "function": _function(source.use, folder),
        "name": name,
        "timeout_s": source.timeout_s,
        "workers": source.workers,
    }
    if source.options:
        options["options"] = source.options
    return local_service(name, FUNCTION_CLASS, options)


def _self(name: str, source: SourceSection) -> SelfEvaluation:
    options = dict(source.options)
    try:
        rubric = make_rubric(options.pop("criteria", ()), options.pop("columns", ()))
    except ValueError as error:
        raise ValueError(f"feedback: options of {name!r}: {error}") from None
    max_tokens = options.pop("max_tokens", SelfEvaluation.max_tokens)
    if options or not isinstance(max_tokens, int) or max_tokens < 1:
        raise ValueError(
            f"feedback: options of {name!r}: takes `criteria`, `columns` and `max_tokens` (a whole "
            f"number above 0), got {', '.join(source.options)}"
        )
    return SelfEvaluation(name=name, rubric=rubric, max_tokens=max_tokens)


def _judge_options(name: str, source: SourceSection, folder: Path) -> dict[str, Any]:
    options: dict[str, Any] = {"name": name, **source.options}
    for needed in ("url", "model", "criteria"):
        if needed not in options:
            raise ValueError(f"feedback: the judge {name!r} has no option {needed!r}")
    try:
        make_rubric(options["criteria"], options.get("columns", ()))
    except ValueError as error:
        raise ValueError(f"feedback: options of the judge {name!r}: {error}") from None
    if "key_file" in options:
        options["key_file"] = str((folder / str(options["key_file"])).resolve())
    if "timeout_s" in source.model_fields_set:
        options.setdefault("timeout_s", source.timeout_s)
    return options


def _function(use: str, folder: Path) -> str:
    place, colon, name = use.rpartition(":")
    if not colon and use.endswith(".py"):
        raise ValueError(f"feedback.use: {use!r} names no function; write {use}:NAME")
    if not colon and use not in verifiers():
        known = sorted([*verifiers(), ENVIRONMENT_USE, EXECUTOR_USE, JUDGE_USE, SELF_USE])
        raise ValueError(
            f"feedback.use: {use!r} is no verifier; {nearest(use, known)}; a function of yours is "
            "named FILE.py:NAME"
        )
    spelled = f"{(folder / place).resolve()}:{name}" if place.endswith(".py") else use
    try:
        check_judge(spelled)
    except ValueError as error:
        raise ValueError(f"feedback.use: {error}") from None
    return spelled


def _task(feedback: FeedbackSection, named: Mapping[str, SourceSection]) -> Task:
    if not named:
        return NOT_JUDGED
    weights = tuple(source.weight for source in named.values())
    if len(named) == 1 and weights == (1.0,):
        return ScoredTask(sources=tuple(named), solved_at=feedback.solved_at)
    return CombinedTask(
        sources=tuple(named), weights=weights, rule=feedback.reward, solved_at=feedback.solved_at
    )
