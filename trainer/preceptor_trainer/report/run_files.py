"""The files of a finished run, read and checked.

    run = load_run(run_dir)
    run.summary.after.pass_at[1].mean

A field that the report does not draw is ignored, so a run may write more than is read here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from preceptor_trainer.evaluation.samples import FOLDER, Sample, read_samples
from preceptor_trainer.run.watching.metrics_log import MetricsLine, read_metrics

SUMMARY_FILE = "summary.json"
WORKED_FILE = "worked_rollout.json"


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Interval(_Read):
    """A mean with the bounds of its interval."""

    mean: float
    low: float
    high: float


def _collect_pass_at(value: Any) -> Any:
    """Moves `pass@1`, `pass@8`, ... under one field, keyed by k."""
    if not isinstance(value, Mapping):
        return value
    items = cast("Mapping[str, Any]", value)
    pass_at = {k.removeprefix("pass@"): v for k, v in items.items() if k.startswith("pass@")}
    return {**items, "pass_at": pass_at}


class PassAt(_Read):
    """Intervals of pass@k by k."""

    pass_at: dict[int, Interval] = Field(min_length=1)


class Evaluation(PassAt):
    """The held-out problems, answered by one version of the student."""

    mean_length: float
    num_problems: int
    num_samples: int
    ungraded: int = 0
    """Samples without a grade; they count neither as solved nor as failed."""


class Corrections(_Read):
    """What people did for a run."""

    sent: int
    """Rollouts that went to them."""
    standing: int
    """Corrections that counted at the end."""
    trained: int
    """Corrected sequences that steps trained on; one may count in several steps."""


class Late(_Read):
    """Experts' answers after their step's deadline."""

    joined: int
    """Rows of later steps that they made."""
    dropped: int
    """Answers that came too late for any step."""
    skipped: int
    """Questions that were not asked at first, because an expert could not be reached."""
    waiting: int
    """Answers that were still awaited at the end."""


class Evaluated(_Read):
    """One of a run's evaluations."""

    label: str
    step: int
    pass_at: dict[str, float]


class Summary(_Read):
    """`summary.json`."""

    run: str
    seed: int
    steps: int
    before: Annotated[Evaluation, BeforeValidator(_collect_pass_at)]
    after: Annotated[Evaluation, BeforeValidator(_collect_pass_at)]
    gain: Annotated[PassAt, BeforeValidator(_collect_pass_at)]
    phases: dict[str, float]
    peak_bytes: dict[str, int] = Field(default_factory=dict)
    """Most memory that the trainer held in each phase since its last start."""
    seconds: float
    rollouts: int
    targets: int
    evaluations: tuple[Evaluated, ...] = ()
    """All of them, in the order of their steps."""
    best: Evaluated | None = None
    """The one with the highest pass@k at the smallest k."""
    corrections: Corrections | None = None
    """None for a run without people."""
    late: Late | None = None
    """None for a run whose steps do not overlap."""
    failed_judgements: dict[str, int] = Field(default_factory=dict)
    """Judgements that failed in training, by source."""
    unjudged: int = 0
    """Attempts of the training without a reward because of that."""
    feedback_cost: float = 0.0
    """Price of all judgements of the training, in the deployment's unit."""
    versions: dict[str, str]
    config: dict[str, Any]
    trace_target: str | None = None
    """`TARGET:POSITION` to try; `ROLLOUT:POSITION` where a run has no targets; None where it has no
    attempts either."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, value: Any) -> Any:
        """Reads `trace_command` of older versions, whose folder may no longer be right."""
        if not isinstance(value, Mapping):
            return value
        items = cast("Mapping[str, Any]", value)
        command = items.get("trace_command")
        return items if not command else {"trace_target": str(command).split()[2], **items}


class ShownFeedback(_Read):
    """A feedback item that the expert had in view."""

    kind: str
    text: str | None = None
    source: str
    details: dict[str, Any] = Field(default_factory=dict)


class WorkedExpert(_Read):
    """One expert of the worked rollout's target."""

    name: str
    kind: str = "topk"


class Opinion(_Read):
    """One expert's part of the target at one token."""

    weight: float = 1.0
    """Its share of the target here."""
    entries: tuple[tuple[str, float], ...] = ()
    """The expert's most probable tokens, best first."""
    tail: float | None = None
    own_prob: float | None = None
    """The expert's probability of the student's token."""


class WorkedToken(_Read):
    """One response token of the worked rollout."""

    text: str
    id: int
    student_logprob: float
    owned: bool = True
    labelled: bool
    cost: float | None = None
    """Cross-entropy to the expert here, in nats."""
    advantage: float | None = None
    """What multiplies the gradient of this token's log-prob in the loss; positive: less likely."""
    opinions: tuple[Opinion | None, ...] = ()
    """One for each expert of the rollout; None where it has no share of the target."""


class WorkedRollout(_Read):
    """`worked_rollout.json`."""

    target_id: str
    rollout_id: str
    step: int
    prompt: str
    response: str
    solved: bool | None
    """None where it was not judged."""
    feedback: tuple[ShownFeedback, ...]
    reference: str | None = None
    experts: tuple[WorkedExpert, ...]
    tokens: tuple[WorkedToken, ...]
    focus: int | None = None
    """Position of the token that the trace command names."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, value: Any) -> Any:
        """Reads files of older versions, which have the first expert's entries at each token."""
        if not isinstance(value, Mapping):
            return value
        items = cast("Mapping[str, Any]", value)
        if "experts" in items:
            return items
        tokens = [
            {**token, "opinions": [token if token.get("labelled") else None]}
            for token in cast("list[dict[str, Any]]", items.get("tokens", []))
        ]
        return {**items, "experts": [{"name": "expert"}], "tokens": tokens}


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that a report is made of."""

    folder: Path
    summary: Summary
    metrics: list[MetricsLine]
    worked: WorkedRollout | None
    answers: list[tuple[Evaluated, list[Sample]]]
    """What was answered in each evaluation."""


def load_run(run_dir: Path) -> Run:
    """Reads a finished run.

    Raises:
        ValueError: there is no summary, or a file is not valid.
    """
    summary_path, worked_path = run_dir / SUMMARY_FILE, run_dir / WORKED_FILE
    if not summary_path.exists():
        raise ValueError(f"run_dir: {run_dir} has no {SUMMARY_FILE}; the run has not finished")
    summary = _read(Summary, summary_path)
    return Run(
        folder=run_dir,
        summary=summary,
        metrics=read_metrics(run_dir),
        worked=_read(WorkedRollout, worked_path) if worked_path.exists() else None,
        answers=[
            (one, read_samples(run_dir / FOLDER / f"{one.label}.json"))
            for one in summary.evaluations
        ],
    )


Model = TypeVar("Model", bound=BaseModel)


def _read(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{path}: {error}") from error
