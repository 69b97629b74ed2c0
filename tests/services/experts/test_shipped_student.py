"""The student that the package ships, as its own teacher."""

from __future__ import annotations

from preceptor_clients.contract.execution import feedback_text
from preceptor_clients.contract.schemas import (
    FeedbackItem,
    Message,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
)
from preceptor_services.experts.self_teacher import SelfTeacher
from preceptor_trainer.student import STUDENT_DIR
from preceptor_trainer.tasks.programming_by_example.problems import (
    Problem,
    evaluate,
    sample_problems,
)

from .conftest import remark


async def test_feedback_brings_the_shipped_student_closer_to_the_right_program() -> None:
    teacher = SelfTeacher(model=str(STUDENT_DIR), needs_feedback=False, threads=1)
    problems = sample_problems("train", count=12, seed=0)
    plain = [query(teacher, p) for p in problems]
    traced = [query(teacher, p, remark(feedback_text(evaluate("0", p)))) for p in problems]
    shown = [query(teacher, p, remark(p.reference, kind="demonstration")) for p in problems]

    answers = await teacher.logprobs([*plain, *traced, *shown], [])
    await teacher.stop()

    per_problem = [float(a.own_logprobs_P.sum()) for a in answers if isinstance(a, PrefixAnswer)]
    without, with_trace, with_demonstration = (sum(per_problem[i : i + 12]) for i in (0, 12, 24))
    assert len(per_problem) == 36
    assert without < with_trace < with_demonstration


def query(teacher: SelfTeacher, problem: Problem, *feedback: FeedbackItem) -> PrefixQuery:
    fingerprint = teacher.info().capabilities.vocab_fingerprint
    assert fingerprint is not None
    return PrefixQuery(
        prompt=Prompt(messages=tuple(Message.model_validate(m) for m in problem.messages)),
        response_ids=[*problem.reference.encode(), 257],  # type: ignore[arg-type]
        vocab_fingerprint=fingerprint,
        feedback=feedback,
    )
