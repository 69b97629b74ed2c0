"""An expert's own temperature: softmax(logits / T), against dense float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery
from preceptor_clients.sdk.templates import COMPACT
from preceptor_services.experts.engine.head import SWEPT_COLUMNS
from preceptor_services.experts.engine.prefill import Prefill
from preceptor_services.experts.engine.score import score
from preceptor_services.experts.self_teacher import SelfTeacher, SelfTeacherConfig
from preceptor_services.experts.temperature import AtTemperature

from .conftest import TinyPolicy

MakeTeacher = Callable[..., SelfTeacher]
MakeQuery = Callable[..., PrefixQuery]
TOLERANCE = 1e-4


def dense(policy: TinyPolicy, teacher: SelfTeacher, query: PrefixQuery, T: float) -> np.ndarray:
    """`[P, V]` log-probs of all rows of the head in float64, at temperature T."""
    messages = [m.model_dump() for m in query.prompt.messages]
    context = teacher._model.encode(COMPACT.render(messages, query.feedback))
    ids = torch.tensor([[*context, *query.response_ids.tolist()]])
    with torch.no_grad():
        logits = policy.model().double()(input_ids=ids).logits[0][len(context) - 1 : -1]
    return (logits / T).log_softmax(-1).numpy()


@pytest.mark.parametrize("T", [0.3, 0.7, 2.0])
async def test_entries_tail_own_and_candidates_are_of_the_sharpened_distribution(
    make_teacher: MakeTeacher, make_query: MakeQuery, policy: TinyPolicy, T: float
) -> None:
    candidates = np.tile(np.array([5, 1, -1], np.int32), (len("sorted(x)") + 1, 1))
    plain = make_query()
    query = make_query(top_k=4, candidate_ids=candidates[: len(plain.response_ids)])
    teacher = make_teacher(ema_rate=0.0, temperature=T)

    [found] = await teacher.logprobs([query], [])

    assert isinstance(found, PrefixAnswer)
    assert found.candidate_logprobs_PC is not None
    wanted = dense(policy, teacher, query, T)
    entries = np.take_along_axis(wanted, found.ids_PK.astype(int), 1)
    own = np.take_along_axis(wanted, query.response_ids[:, None].astype(int), 1)[:, 0]
    assert np.abs(found.logprobs_PK - entries).max() < TOLERANCE
    assert np.abs(found.own_logprobs_P - own).max() < TOLERANCE
    assert np.abs(found.candidate_logprobs_PC[:, :2] - wanted[:, [5, 1]]).max() < TOLERANCE
    assert np.abs(found.tail_P - (1 - np.exp(entries).sum(1))).max() < TOLERANCE
    assert found.inclusion_P is None  # every position is scored


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_head_is_sharpened_before_it_is_normalised(dtype: torch.dtype) -> None:
    scorer, T = LargeHead(dtype), 0.5
    prefill = Prefill(
        context_ids=np.arange(3), response_ids=np.arange(6), positions_P=np.arange(6), top_k=7
    )

    [found] = score(AtTemperature(scorer, T), [prefill], vocab_size=scorer.num_logits - 5)

    rows = scorer.hidden([], [np.arange(6)]).double() @ scorer.weight.double().T
    wanted = (rows.to(dtype).double() / T).log_softmax(-1).numpy()
    entries = np.take_along_axis(wanted, found.ids_PK.astype(int), 1)
    assert np.abs(found.logprobs_PK - entries).max() < (1e-4 if dtype == torch.float32 else 0.05)


class LargeHead:
    """A head of several blocks on given hidden states."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.logits_dtype = dtype
        self.device = torch.device("cpu")
        self.num_logits = 5 * SWEPT_COLUMNS + 17
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(self.num_logits, 8, generator=generator).to(dtype)
        self.states = torch.randn(16, 8, generator=generator).to(dtype)

    def plan(self, sequences: Any, max_tokens: int) -> list[list[int]]:
        return [list(range(len(sequences)))]

    def hidden(self, sequences: Any, places: Any) -> torch.Tensor:
        return self.states[: sum(map(len, places))]

    def logits(self, hidden: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        return hidden @ self.weight[start:stop].T


def test_the_temperature_is_part_of_the_version(make_teacher: MakeTeacher) -> None:
    versions = {make_teacher(temperature=T).info().version for T in (1.0, 0.5, 0.25)}

    assert len(versions) == 3


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_0_is_refused(model_folder: Path, value: float) -> None:
    with pytest.raises(ValueError, match=r"^temperature: "):
        SelfTeacherConfig(model=str(model_folder), temperature=value)
