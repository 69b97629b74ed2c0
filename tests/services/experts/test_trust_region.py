"""Teachers as options of one service: frozen, live, and held near the initial model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from preceptor_clients.contract.schemas import (
    PrefixAnswer,
    PrefixQuery,
    WantedWeights,
    WeightsOffer,
)
from preceptor_clients.sdk.templates import COMPACT
from preceptor_services.experts.self_teacher import SelfTeacher, SelfTeacherConfig

from .conftest import TinyPolicy

MakeTeacher = Callable[..., SelfTeacher]
MakeQuery = Callable[..., PrefixQuery]


async def ask(teacher: SelfTeacher, policy: TinyPolicy, query: PrefixQuery) -> PrefixAnswer:
    manifest = policy.publish(1)
    await teacher.offer_weights(WeightsOffer(manifests=(manifest,)))
    wanted = WantedWeights(mode="exact", version=manifest.version)
    [reply] = await teacher.logprobs([query.model_copy(update={"weights": wanted})], [])
    assert isinstance(reply, PrefixAnswer)
    return reply


def logits_of(policy: TinyPolicy, teacher: SelfTeacher, query: PrefixQuery, model: Any) -> Any:
    messages = [m.model_dump() for m in query.prompt.messages]
    context = teacher._model.encode(COMPACT.render(messages, query.feedback))
    ids = torch.tensor([[*context, *query.response_ids.tolist()]])
    with torch.no_grad():
        return model(input_ids=ids).logits[0][len(context) - 1 : -1]


def trained(policy: TinyPolicy) -> Any:
    model = policy.model()
    tensors = load_file(policy.weights_root / "p" / "l0" / "1" / "model.safetensors")
    model.load_state_dict(tensors, strict=False)  # the tied head is stored once
    return model


@pytest.mark.parametrize("share", [0.01, 0.5])
async def test_a_trust_region_is_the_normalised_geometric_mixture(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy, share: float
) -> None:
    teacher, query = make_teacher(ema_rate=1.0, trust_region=share), make_query()

    found = await ask(teacher, policy, query)

    logits = [logits_of(policy, teacher, query, m) for m in (policy.model(), trained(policy))]
    logprobs = torch.lerp(*logits, share).log_softmax(-1).numpy()
    entries = np.take_along_axis(logprobs, found.ids_PK.astype(int), 1)
    own = np.take_along_axis(logprobs, query.response_ids[:, None].astype(int), 1)[:, 0]
    assert np.abs(entries - found.logprobs_PK).max() < 1e-5
    assert np.abs(own - found.own_logprobs_P).max() < 1e-5


@pytest.mark.parametrize(("rate", "follows"), [(0.0, False), (1.0, True)], ids=["frozen", "live"])
async def test_rate_0_is_the_initial_model_and_rate_1_the_policy_of_the_moment(
    make_teacher: MakeTeacher,
    make_query: MakeQuery,
    policy: TinyPolicy,
    rate: float,
    follows: bool,
) -> None:
    teacher, query = make_teacher(ema_rate=rate), make_query()

    found = await ask(teacher, policy, query)

    model = trained(policy) if follows else policy.model()
    logprobs = logits_of(policy, teacher, query, model).log_softmax(-1).numpy()
    entries = np.take_along_axis(logprobs, found.ids_PK.astype(int), 1)
    assert np.abs(entries - found.logprobs_PK).max() < 1e-5


async def test_candidates_are_scored_by_the_mixture(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy
) -> None:
    plain = make_query(top_k=4)
    teacher = make_teacher(ema_rate=1.0, trust_region=0.5)
    positions = len(plain.response_ids)
    candidates = np.tile(np.array([1, 2, -1], np.int32), (positions, 1))

    found = await ask(teacher, policy, make_query(top_k=4, candidate_ids=candidates))

    logits = [logits_of(policy, teacher, plain, m) for m in (policy.model(), trained(policy))]
    logprobs = torch.lerp(*logits, 0.5).log_softmax(-1).numpy()
    assert found.candidate_logprobs_PC is not None
    assert np.abs(found.candidate_logprobs_PC[:, :2] - logprobs[:, 1:3]).max() < 1e-5


def test_the_version_tells_teachers_apart(make_teacher: MakeTeacher) -> None:
    options: list[dict[str, Any]] = [
        {"ema_rate": 1.0},
        {"ema_rate": 1.0, "trust_region": 0.01},
        {"ema_rate": 1.0, "trust_region": 0.02},
    ]

    versions = {make_teacher(**o).info().version for o in options}

    assert len(versions) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust_region": 1.0}, "trust_region: 1.0 is not between 0 and 1"),
        ({"trust_region": 0.5, "ema_rate": 0.0}, "cannot be used with ema_rate 0"),
    ],
)
def test_a_mixture_without_two_parts_is_refused(
    model_folder: Path, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SelfTeacherConfig(model=str(model_folder), **options)  # type: ignore[arg-type]
