"""Claims about the self-teacher's answers, through its public methods and its HTTP service."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from preceptor_clients.contract import wire
from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.checks import check_answer
from preceptor_clients.contract.errors import ContextTooLong, Invalid
from preceptor_clients.contract.fingerprint import ids_hash
from preceptor_clients.contract.schemas import (
    LogprobsCall,
    LogprobsReply,
    PrefixAnswer,
    PrefixQuery,
    Prompt,
)
from preceptor_clients.sdk.service import service_app
from preceptor_clients.sdk.templates import COMPACT
from preceptor_services.experts.self_teacher import SelfTeacher, SelfTeacherConfig
from preceptor_services.experts.torch_expert import TorchExpert

from .conftest import MAX_POSITIONS, TinyPolicy, remark

MakeTeacher = Callable[..., SelfTeacher]
MakeQuery = Callable[..., PrefixQuery]


async def ask(teacher: SelfTeacher, *queries: PrefixQuery) -> list[Any]:
    return list(await teacher.logprobs(queries, []))


async def answer(teacher: SelfTeacher, query: PrefixQuery) -> PrefixAnswer:
    [reply] = await ask(teacher, query)
    assert isinstance(reply, PrefixAnswer)
    check_answer(query, reply, teacher.info().capabilities)
    return reply


async def test_i3_an_exact_answer_over_http_is_the_models_own_forward_pass(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    teacher = make_teacher()
    queries = (make_query(), make_query("max(x)", "[1]->1 not [1]"), make_query("x[::-1]"))
    transport = httpx.ASGITransport(service_app(teacher, key="k"))

    async with httpx.AsyncClient(transport=transport, base_url="http://expert") as client:
        response = await client.post(
            "/v1/logprobs",
            content=wire.render(LogprobsCall(queries=queries)),
            headers={
                "Authorization": "Bearer k",
                "Content-Type": wire.FRAME,
                "Accept": f"{wire.FRAME};logprobs=f32",
            },
        )

    reply = wire.parse(LogprobsReply, response.content, response.headers["content-type"])
    for query, result in zip(queries, reply.results, strict=True):
        assert result.answer is not None
        assert_equals_forward_pass(policy, teacher, query, result.answer)


def assert_equals_forward_pass(
    policy: TinyPolicy,
    teacher: TorchExpert,
    query: PrefixQuery,
    found: PrefixAnswer,
    *,
    within: float = 1e-5,
) -> None:
    messages = [m.model_dump() for m in query.prompt.messages]
    context = teacher._model.encode(COMPACT.render(messages, query.feedback))
    ids = torch.tensor([[*context, *query.response_ids.tolist()]])
    with torch.no_grad():
        logprobs = policy.model()(input_ids=ids).logits[0].log_softmax(-1).numpy()
    wanted = logprobs[len(context) - 1 : -1]
    entries = np.take_along_axis(wanted, found.ids_PK.astype(int), 1)
    own = np.take_along_axis(wanted, query.response_ids[:, None].astype(int), 1)[:, 0]
    assert np.abs(entries - found.logprobs_PK).max() <= within
    assert np.abs(own - found.own_logprobs_P).max() <= within


async def test_the_same_call_twice_gives_the_same_bits(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    teacher = make_teacher()
    call = [make_query("sorted(x)"), make_query("x"), make_query("sum(x)", "longer feedback")]

    first, second = [await ask(teacher, *call) for _ in range(2)]

    assert [wire.render(a) for a in first] == [wire.render(a) for a in second]


async def test_feedback_changes_the_answer_and_the_plain_prompt_does_not_hold_it(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    teacher = make_teacher(needs_feedback=False)

    plain = await answer(teacher, make_query(text=None))
    told = await answer(teacher, make_query(text="[3,1]->[1,3] not [3,1]"))

    assert plain.used_feedback == ()
    assert told.used_feedback == ("fb-1",)
    assert plain.context_hash != told.context_hash
    assert np.abs(plain.own_logprobs_P - told.own_logprobs_P).max() > 1e-3


async def test_exact_prompt_ids_are_used_where_there_is_no_feedback(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    ids = np.array([259, 65, 66, 260], np.int32)

    found = await answer(
        make_teacher(needs_feedback=False), make_query(text=None, prompt=Prompt(ids=ids))
    )

    assert found.context_hash == ids_hash(ids)


async def test_without_feedback_in_view_there_is_no_opinion_where_it_is_needed(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    teacher = make_teacher(needs_feedback=True)
    silent = make_query(feedback=(remark(None, score=1.0),))

    found = await answer(teacher, silent)

    assert not found.mask_P.any()
    assert (found.logprobs_PK == np.float32(MISSING)).all()
    assert not found.own_mask_P.any()


@pytest.mark.parametrize("top_k", [1, 16, 261])
async def test_i4_entries_and_tail_sum_to_one(
    make_teacher: MakeTeacher, make_query: MakeQuery, top_k: int
) -> None:
    found = await answer(make_teacher(), make_query(top_k=top_k))

    mass = np.exp(found.logprobs_PK.astype(np.float64)).sum(1) + found.tail_P
    np.testing.assert_allclose(mass, 1.0, atol=1e-5)


async def test_positions_and_candidates_are_answered_as_asked(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    teacher = make_teacher()
    candidates = np.array([[1, 2], [3, -1], [-1, -1]], np.int32)

    whole = await answer(teacher, make_query())
    part = await answer(teacher, make_query(positions=((1, 3), (7, 8)), candidate_ids=candidates))

    np.testing.assert_allclose(part.logprobs_PK, whole.logprobs_PK[[1, 2, 7]], atol=1e-5)
    assert part.candidate_mask_PC is not None
    assert part.candidate_mask_PC.tolist() == [[True, True], [True, False], [False, False]]


async def test_long_feedback_is_cut_from_the_right_until_it_fits(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    teacher = make_teacher()
    items = (
        remark("first", id="a"),
        remark("x" * 5 * MAX_POSITIONS, id="b"),
        remark("last", id="c"),
    )

    found = await answer(teacher, make_query(feedback=items))

    assert found.used_feedback == ("a", "b")
    assert found.truncated[1] == "c: 0 of 4 characters kept"
    kept = int(found.truncated[0].split()[1])
    assert found.truncated[0] == f"b: {kept} of {5 * MAX_POSITIONS} characters kept"
    messages = [{"role": "user", "content": "[3,1]->[1,3]"}]
    shown = [remark("first", id="a"), remark("x" * kept, id="b")]
    context = teacher._model.encode(COMPACT.render(messages, shown))
    assert len(context) + 10 == MAX_POSITIONS
    assert found.context_hash == ids_hash(np.array(context))


async def test_a_prompt_that_leaves_no_room_is_refused_and_its_batch_goes_on(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    long = make_query("y" * (MAX_POSITIONS - 12))

    refused, answered = await ask(make_teacher(), long, make_query())

    assert isinstance(refused, ContextTooLong)
    assert isinstance(answered, PrefixAnswer)


async def test_an_item_that_no_expert_may_see_is_refused_by_its_field(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    hidden = (remark("a"), remark("the reference", id="fb-2", expert_may_see=False))

    [refused] = await ask(make_teacher(), make_query(feedback=hidden))

    assert isinstance(refused, Invalid)
    assert refused.errors[0].field == "feedback[1].expert_may_see"


async def test_feedback_without_a_chat_is_refused(
    make_teacher: MakeTeacher, make_query: MakeQuery
) -> None:
    [refused] = await ask(make_teacher(), make_query(prompt=Prompt(ids=np.array([1], np.int32))))

    assert isinstance(refused, Invalid)
    assert refused.errors[0].field == "prompt.messages"


def test_the_version_names_everything_that_decides_an_answer(
    make_teacher: MakeTeacher, policy: TinyPolicy
) -> None:
    versions = {
        make_teacher(**options).info().version
        for options in (
            {},
            {"ema_rate": 0.5},
            {"template": "papers"},
            {"dtype": "bfloat16"},
            {"needs_feedback": False},
            {"threads": 2},
            {"chat_template_kwargs": {"enable_thinking": False}},
        )
    }
    (policy.folder / "generation_config.json").write_text("{}")

    assert len(versions | {make_teacher().info().version}) == 8


def test_info_declares_vocabulary_and_limits(make_teacher: MakeTeacher, policy: TinyPolicy) -> None:
    capabilities = make_teacher().info().capabilities

    assert capabilities.vocab_fingerprint == policy.vocab_fingerprint
    assert capabilities.vocab_size == 261
    assert capabilities.max_context == MAX_POSITIONS
    assert capabilities.weights
    assert capabilities.candidates
    assert capabilities.needs_feedback


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ema_rate", 1.5),
        ("versions_kept", 0),
        ("dtype", "float16"),
        ("model", "/nowhere"),
        ("max_context", 1),
        ("weights_roots", "/one"),
        ("device", "nowhere"),
    ],
)
def test_a_wrong_option_is_refused_by_name(policy: TinyPolicy, field: str, value: Any) -> None:
    good = SelfTeacherConfig(model=str(policy.folder))

    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(good, **{field: value})


async def test_a_template_file_of_ones_own_is_rendered(
    make_teacher: MakeTeacher, make_query: MakeQuery, tmp_path: Path
) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{{ prompt }}!{{ remarks | join }}{{ answers | join }}")

    teacher = make_teacher(template=str(own))
    found = await answer(teacher, make_query(text="no"))

    wanted = teacher._model.encode([{"role": "user", "content": "[3,1]->[1,3]!no"}])
    assert found.context_hash == ids_hash(np.array(wanted))
