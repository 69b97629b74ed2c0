"""A question is trained on until its first success, across interruptions, and no longer.

Student, optimiser, weights, checkpoints and metrics are real; a gateway of a few lines judges.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from preceptor_clients.contract.errors import NotFound
from preceptor_clients.contract.listings import LineagePlace, RunDetails
from preceptor_clients.contract.schemas import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackOutcome,
    FeedbackSubmission,
    LineageRecord,
    RunRecord,
    StepRecord,
    WeightManifest,
)
from preceptor_clients.http.gateway import GatewayClient
from preceptor_trainer.collect.labelling import Labelled
from preceptor_trainer.collect.participant import StepContext
from preceptor_trainer.experiments.solve.test_time import (
    FirstSuccess,
    SelfDistillation,
    discover,
    first_success,
)
from preceptor_trainer.experiments.solve.trajectory import Trajectory
from preceptor_trainer.objectives.grpo import GRPO
from preceptor_trainer.run.watching.metrics_log import METRICS_FILE, read_metrics
from preceptor_trainer.sampling.params import SamplingParams
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import Problem, sample_problems

pytestmark = pytest.mark.usefixtures("one_thread")
GROUP = 4


class Judge:
    """A gateway that judges attempts, and may be lost while a step is recorded.

    Failures get different scores, so that a reward-only objective learns from them.
    """

    def __init__(
        self,
        *,
        success: tuple[int, int] | None = None,
        lost_at: int | None = None,
        before: Judge | None = None,
    ):
        self.runs: dict[str, RunDetails] = {} if before is None else before.runs
        self.manifests: dict[str, WeightManifest] = {} if before is None else before.manifests
        self.success = success  # step, and place in its group
        self.lost_at = lost_at
        self.judged: dict[int, list[tuple[int, ...]]] = {}  # responses by step
        self.trained: list[int] = []

    async def feedback(
        self, source: str, submissions: Sequence[FeedbackSubmission], **_: object
    ) -> list[FeedbackOutcome]:
        return [self._judge(source, submission) for submission in submissions]

    def _judge(self, source: str, submission: FeedbackSubmission) -> FeedbackOutcome:
        query = submission.query
        *_, step, _, place = query.rollout_id.split("-")
        self.judged.setdefault(int(step), []).append(tuple(query.response_ids.tolist()))
        is_right = (int(step), int(place) + 1) == self.success
        item = FeedbackItem(
            id=query.rollout_id,
            kind="execution",
            score=1.0 if is_right else 0.1 * int(place),
            source=source,
            version="1",
        )
        return FeedbackOutcome(
            answer=FeedbackAnswer(items=(item,), source=source, source_version="1")
        )

    async def record_step(self, record: StepRecord) -> None:
        if record.step == self.lost_at:
            raise ConnectionError("the gateway is gone")
        self.trained.append(record.step)

    async def put_blob(self, content: bytes) -> str:
        return "0" * 64

    async def record(self, records: object) -> None: ...

    async def run_details(self, run: str) -> RunDetails:
        if run not in self.runs:
            raise NotFound(f"no run {run}")
        return self.runs[run]

    async def start_run(self, record: RunRecord) -> None:
        self.runs[record.run] = RunDetails(**record.model_dump(), created_at=0.0, lineages=())

    async def start_lineage(self, record: LineageRecord) -> None:
        life = LineagePlace(
            lineage=record.lineage,
            parent=record.parent,
            from_step=record.from_step,
            created_at=0.0,
        )
        run = self.runs[record.run]
        self.runs[record.run] = run.model_copy(update={"lineages": (*run.lineages, life)})

    async def register_weights(self, manifest: WeightManifest) -> None:
        self.manifests[manifest.version] = manifest

    async def weights(self, version: str) -> WeightManifest:
        return self.manifests[version]


@pytest.fixture(scope="module")
def problem() -> Problem:
    (problem,) = sample_problems("train", count=1, seed=0)
    return problem


async def solve(problem: Problem, run_dir: Path, judge: Judge, attempts: int) -> Trajectory:
    settings = SelfDistillation(objective=GRPO(), lr=1e-2, group=GROUP)
    config = settings.config(
        problem, name="tt-q-0", seed=0, max_attempts=attempts, model=STUDENT_DIR
    )
    config = replace(
        config,
        experts=(),
        sampling=SamplingParams(max_new_tokens=4),
        checkpoint_every=2,
        threads=1,
    )
    run_dir.mkdir(exist_ok=True)
    return await discover(config, run_dir, cast(GatewayClient, judge))


async def test_a_question_ends_with_its_first_success(problem: Problem, tmp_path: Path) -> None:
    judge = Judge(success=(1, 2))

    found = await solve(problem, tmp_path, judge, attempts=5 * GROUP)

    assert (found.method, found.problem_id, found.seed) == ("test-time", problem.id, 0)
    assert (found.solved_at, found.attempts) == (GROUP + 2, GROUP + 2)
    assert sorted(judge.judged) == [0, 1]
    assert judge.trained == [0]
    assert list(judge.manifests) == ["tt-q-0/l0/0", "tt-q-0/l0/1"], "what it learnt has files"
    assert found.tokens == sum(len(r) for group in judge.judged.values() for r in group)


async def test_a_success_beyond_the_last_attempt_does_not_count(
    problem: Problem, tmp_path: Path
) -> None:
    judge = Judge(success=(1, 3))

    found = await solve(problem, tmp_path, judge, attempts=GROUP + 2)

    assert (found.solved_at, found.attempts) == (None, GROUP + 2)
    assert judge.trained == [0], "nobody attempts it after the last group"


async def test_an_interrupted_question_goes_on_from_its_last_checkpoint(
    problem: Problem, tmp_path: Path
) -> None:
    whole, lost = (Judge(success=(4, 2), lost_at=at) for at in (None, 3))
    again = Judge(success=(4, 2), before=lost)
    expected = await solve(problem, tmp_path / "whole", whole, attempts=6 * GROUP)

    with pytest.raises(ConnectionError, match="gateway is gone"):
        await solve(problem, tmp_path / "lost", lost, attempts=6 * GROUP)
    _wait_in_every_step(tmp_path / "lost", seconds=1000.0)
    found = await solve(problem, tmp_path / "lost", again, attempts=6 * GROUP)

    assert again.trained == [2, 3]
    assert again.judged == {step: whole.judged[step] for step in (2, 3, 4)}
    assert (found.solved_at, found.attempts) == (4 * GROUP + 2, 4 * GROUP + 2)
    assert found.tokens == expected.tokens
    assert [line["step"] for line in read_metrics(tmp_path / "lost")] == [1, 2, 3, 4]
    assert 2000 < found.seconds < 3000, "of the steps before the checkpoint, not of the one lost"


async def test_attempts_before_an_interruption_count(problem: Problem, tmp_path: Path) -> None:
    attempts = 3 * GROUP + 2
    lost = Judge(lost_at=2)
    with pytest.raises(ConnectionError):
        await solve(problem, tmp_path, lost, attempts)

    found = await solve(problem, tmp_path, Judge(success=(3, 3), before=lost), attempts)

    assert (found.solved_at, found.attempts) == (None, attempts)


def _wait_in_every_step(run_dir: Path, *, seconds: float) -> None:
    path = run_dir / METRICS_FILE
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    waited = [line | {"seconds/waiting": seconds} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in waited))


def _group(*scores: float | None) -> list[Labelled]:
    rows = [
        SimpleNamespace(
            attempt=SimpleNamespace(
                solved=score is not None and score >= 0.5,
                score=score,
                items=(),
                rollout=SimpleNamespace(rollout_id=f"r{place}", response_ids=[1]),
            )
        )
        for place, score in enumerate(scores, start=1)
    ]
    return cast("list[Labelled]", rows)


@pytest.mark.parametrize(
    ("scores", "place"),
    [
        ((1.0, 0.0), 1),
        ((0.0, 0.4, 1.0, 1.0), 3),
        ((0.0, 0.5), 2),
        ((0.0, 0.0), None),
        ((0.0, None, 1.0), 3),
    ],
)
def test_the_first_success_has_its_place_among_the_attempts(
    scores: Sequence[float | None], place: int | None
) -> None:
    assert first_success(_group(*scores)) == place


@pytest.mark.parametrize(
    ("limit", "groups", "solved_at", "made", "missing"),
    [
        (6, [(0.0, None, 0.0), (None, 1.0, None)], 3, 6, 2),
        (4, [(0.0, None, 0.0), (0.0, 1.0, 0.0)], None, 4, 1),
        (3, [(0.0, 1.0, None)], 2, 3, 0),
    ],
)
async def test_an_attempt_that_nobody_judged_is_counted_apart(
    limit: int,
    groups: Sequence[Sequence[float | None]],
    solved_at: int | None,
    made: int,
    missing: int,
) -> None:
    watching = FirstSuccess(limit, first_step=0)

    ends = [
        await watching.ends(cast("StepContext", SimpleNamespace(step=step)), _group(*scores))
        for step, scores in enumerate(groups)
    ]

    assert ends[-1]
    assert (watching.solved_at, watching.made, watching.missing) == (solved_at, made, missing)


@pytest.mark.parametrize(("field", "value"), [("lr", 0.0), ("group", 0)])
def test_settings_that_cannot_train_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}: must be"):
        SelfDistillation(**{field: value})  # type: ignore[arg-type]
