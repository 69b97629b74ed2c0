"""Answers as they are after gateway, dispatcher and expert: the wrong ones refused, the right ones
to the bit, and frames that are none."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from dispatch_parts import query, submission
from moody import Moody, mood
from sqlalchemy import text

from preceptor_clients.contract import frame, wire
from preceptor_clients.contract.grid import LOGPROB_STEP
from preceptor_clients.contract.schemas import (
    Capabilities,
    LogprobsRequest,
    PrefixAnswer,
    PrefixQuery,
    PrefixSubmission,
    ServiceInfo,
)
from preceptor_clients.kit.files import make_key_file
from preceptor_clients.sdk.answers import build_answer
from preceptor_clients.sdk.service import service_app
from preceptor_services.experts.larger_model import LargerModel
from preceptor_services.kit.blobs import LocalBlobs

from ...clients.contract.corruptions import CANDIDATES, CORRUPTIONS
from ...clients.honest import FINGERPRINT, VOCAB, honest_distributions
from ..experts.conftest import TinyPolicy, make_query, model_folder, policy
from ..experts.test_self_teacher import assert_equals_forward_pass
from .conftest import serving

__all__ = ["make_query", "model_folder", "policy"]
RESPONSES = ("sorted(x)", "x", "sum(x)", "x[::-1]", "max(x)", "len(x)")


class Corrupting(Moody):
    """Answers honestly, and then spoils it as the first message of the query says."""

    def info(self) -> ServiceInfo:
        declared = Capabilities(vocab_fingerprint=FINGERPRINT, vocab_size=VOCAB, candidates=True)
        return super().info().model_copy(update={"capabilities": declared})

    def _reply(self, query: PrefixQuery, answer_key: str) -> PrefixAnswer:
        honest = build_answer(
            query, honest_distributions(query), expert=self._name, expert_version="1"
        )
        _, change = _CHANGES[int(mood(query))]
        return honest.model_copy(update=change(honest))


# Named by number: some words of a mood mean something else to the expert.
_CHANGES = [("", lambda _: {}), *CORRUPTIONS.values()]


def _spoilt(number: int) -> PrefixSubmission:
    ids = np.array([3, 1, 4, 1, 5], np.int32)
    asked = query(str(number)).model_copy(update={"response_ids": ids, "candidate_ids": CANDIDATES})
    return submission(str(number), asked)


async def test_I1_every_corruption_is_refused_on_the_path_by_its_check_and_none_is_stored(
    make_deployment, moody
) -> None:
    async with (
        moody(cls=Corrupting) as url,
        make_deployment(moody=url) as gateway,
        gateway.dispatching(),
    ):
        outcomes = await gateway.ask(*map(_spoilt, range(len(_CHANGES))))
        async with gateway.database.read() as conn:
            counted = await conn.execute(text("select state, count(*) from answers group by 1"))
            states = dict(iter(counted))

    honest, *spoilt = outcomes
    assert len(spoilt) > 30
    assert honest.answer is not None
    for name, outcome in zip(CORRUPTIONS, spoilt, strict=True):
        assert outcome.problem is not None, name
        assert outcome.problem.code == "answer-refused", name
    checks = [outcome.problem.errors[0].field.removeprefix("answer.") for outcome in spoilt]
    same = [
        found == wanted for found, (wanted, _) in zip(checks, CORRUPTIONS.values(), strict=True)
    ]
    # Some that no frame can hold are something else once they arrive: no log-prob of the grid is
    # positive.
    assert sum(same) >= 30
    assert states == {"done": 1, "failed": len(spoilt)}


@pytest.mark.gauntlet
async def test_I2_a_damaged_frame_costs_its_sender_alone(make_deployment, moody) -> None:
    body = wire.render(LogprobsRequest(expert="moody", submissions=(_spoilt(0),)), wire.FRAME)
    rng = np.random.default_rng(0)
    async with moody() as url, make_deployment(moody=url) as gateway:
        base = f"http://127.0.0.1:{gateway.settings.gateway.port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
            replies = [
                await http.post(path, content=_damaged(body, rng), headers=_as(gateway, role))
                for path, role in (
                    ("/v1/logprobs", "trainer"),
                    ("/v1/internal/reports", "dispatcher"),
                )
                for _ in range(100)
            ]
        [well] = await gateway.client.submit_logprobs("moody", [submission("a", query("well"))])

    assert {reply.status_code // 100 for reply in replies} <= {2, 4}
    assert sum(reply.status_code == 400 for reply in replies) > 100, [
        r.status_code for r in replies
    ]
    assert well.ticket.state == "queued"


def _damaged(body: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, and now and then the end cut off."""
    changed = np.frombuffer(body, np.uint8).copy()
    places = rng.integers(0, len(body), rng.integers(1, 8))
    changed[places] = rng.integers(0, 256, len(places))
    return changed.tobytes()[: rng.integers(1, 2 * len(body))]


def _as(gateway: Any, role: str) -> dict[str, str]:
    key = gateway.settings.key_for(role).read_text().strip()
    return {"authorization": f"Bearer {key}", "content-type": wire.FRAME}


@contextlib.asynccontextmanager
async def _teaching(make_deployment, policy: TinyPolicy, folder: Path, **options: str):
    """A gateway, and the tiny random model that it asks."""
    make_key_file(folder / "keys" / "services" / "service.key")
    key = (folder / "keys" / "services" / "service.key").read_text().strip()
    model = LargerModel(model=str(policy.folder), threads=1, dtype="float32", reads_feedback=True)
    async with (
        serving(service_app(model, key=key)) as url,
        make_deployment(moody=url, **options) as gateway,
        gateway.dispatching(),
    ):
        yield gateway, model


async def _ask(gateway: Any, queries: Sequence[PrefixQuery]) -> list[PrefixAnswer]:
    asked = [submission(f"{q.response_ids.tolist()} {q.top_k}", q) for q in queries]
    return [outcome.answer for outcome in await gateway.ask(*asked)]


@pytest.mark.gauntlet
async def test_I3_an_answer_through_everything_is_the_models_own_on_the_grid(
    make_deployment, make_query, policy, tmp_path
) -> None:
    queries = [make_query(response) for response in RESPONSES]

    async with _teaching(make_deployment, policy, tmp_path) as (gateway, teacher):
        answers = await _ask(gateway, queries)

    for asked, answer in zip(queries, answers, strict=True):
        # Log-probs travel as multiples of the step, rounded once.
        assert_equals_forward_pass(policy, teacher, asked, answer, within=LOGPROB_STEP)


@pytest.mark.gauntlet
async def test_I4_of_every_stored_row_entries_and_tail_add_up_to_one(
    make_deployment, make_query, policy, tmp_path
) -> None:
    async with _teaching(make_deployment, policy, tmp_path) as (gateway, _):
        await _ask(
            gateway, [make_query(response, top_k=k) for response in RESPONSES for k in (1, 7)]
        )
        async with gateway.database.read() as conn:
            rows = await conn.execute(text("select distinct pack_sha256 from answers"))
            names = [name for [name] in rows]
        blobs = LocalBlobs(gateway.settings.gateway.blobs)
        packs = [frame.decode(await blobs.get(name)) for name in names]

    stored = [PrefixAnswer.model_validate(entry) for pack in packs for entry in pack.values()]
    assert len(stored) == 2 * len(RESPONSES)
    for answer in stored:
        mass_P = np.exp(answer.logprobs_PK.astype(float)).sum(1) + answer.tail_P
        np.testing.assert_allclose(mass_P, 1.0, atol=1e-5)


@pytest.mark.gauntlet
async def test_I5_alone_or_together_and_in_any_order_the_stored_bits_are_the_same(
    make_deployment, make_query, policy, tmp_path
) -> None:
    queries = [make_query(response) for response in RESPONSES]

    async with _teaching(make_deployment, policy, tmp_path) as (gateway, _):
        together = await _ask(gateway, queries)
    # Another database, which has no answer yet.
    second = f"sqlite+aiosqlite:///{tmp_path}/second.db"
    async with _teaching(make_deployment, policy, tmp_path, database_url=second) as (gateway, _):
        alone = [(await _ask(gateway, [query]))[0] for query in reversed(queries)]

    for one, other in zip(together, reversed(alone), strict=True):
        assert one.logprobs_PK.tobytes() == other.logprobs_PK.tobytes()
        assert one.ids_PK.tobytes() == other.ids_PK.tobytes()
