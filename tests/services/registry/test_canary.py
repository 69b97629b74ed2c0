"""The numbers that train are the numbers that are checked, and wrong ones are served no longer."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from preceptor_clients.contract.arrays import MISSING
from preceptor_clients.contract.known import KnownAnswers, KnownCase
from preceptor_clients.contract.listings import Quarantine
from preceptor_clients.contract.schemas import PrefixAnswer
from preceptor_clients.http.connection import NO_RETRY
from preceptor_clients.http.service import ServiceClient
from preceptor_clients.sdk.service import service_app
from preceptor_services.registry.inspection import Inspector, SelfTestFailed
from preceptor_services.registry.services import Registry, ServiceEntry

from ..world import World

sys.path.insert(0, str(Path(__file__).parents[2] / "clients" / "conformance"))

from ngram import FINGERPRINT, Ngram, NgramExpert

Fault = Callable[[PrefixAnswer], PrefixAnswer]


class Turning(NgramExpert):
    """An expert that begins to answer otherwise, under the same version."""

    fault: Fault | None = None
    heat = 1.0

    def rows_TV(self, context, response):
        rows = super().rows_TV(context, response) / self.heat
        return rows - np.log(np.exp(rows).sum(1, keepdims=True))

    def built(self, query, rows_PV, **fields):
        answer = super().built(query, rows_PV, **fields)
        return answer if self.fault is None else self.fault(answer)


def hide_own(answer: PrefixAnswer) -> PrefixAnswer:
    nothing = np.zeros_like(answer.own_mask_P)
    own = np.full_like(answer.own_logprobs_P, MISSING)
    return answer.model_copy(update={"own_mask_P": nothing, "own_logprobs_P": own})


def swap_ids(answer: PrefixAnswer) -> PrefixAnswer:
    ids = answer.ids_PK.copy()
    own = ids == answer.token_ids_P[:, None]
    for row in range(len(ids)):
        others = np.flatnonzero(~own[row])[:2]
        ids[row, others] = ids[row, others[::-1]]
    return answer.model_copy(update={"ids_PK": ids})


def rename_best(answer: PrefixAnswer) -> PrefixAnswer:
    """The mass of the best entry that is not the own token stands on another token."""
    ids = answer.ids_PK.copy()
    for row in range(len(ids)):
        place = int(np.flatnonzero(ids[row] != answer.token_ids_P[row])[0])
        free = set(range(1000)) - set(ids[row].tolist()) - {int(answer.token_ids_P[row])}
        ids[row, place] = min(free)
    return answer.model_copy(update={"ids_PK": ids})


def hot(expert: Turning) -> None:
    expert.heat = 2.0
    expert.fault = hide_own


def with_fault(fault: Fault) -> Callable[[Turning], None]:
    def turn(expert: Turning) -> None:
        expert.fault = fault

    return turn


@pytest.fixture
def known() -> KnownAnswers:
    """What the model says of a few ids that it finds ordinary."""
    prompt, response = Ngram().sample(8, 3), Ngram().sample(8, 4)
    rows = Ngram().logprobs_TV(prompt, response)
    case = KnownCase(
        prompt_ids=tuple(prompt.tolist()),
        response_ids=tuple(response.tolist()),
        logprobs=tuple(float(rows[t, token]) for t, token in enumerate(response)),
    )
    return KnownAnswers(vocab_fingerprint=FINGERPRINT, cases=(case,))


async def _inspect(inspector: Inspector, expert: Any, known: KnownAnswers) -> bool:
    transport = httpx.ASGITransport(service_app(expert))
    async with ServiceClient("http://e", retry=NO_RETRY, transport=transport) as client:
        return await inspector.inspect("e", client, expert.info(), self_test=False, known=known)


@pytest.mark.parametrize(
    "turn",
    [hot, with_fault(hide_own), with_fault(swap_ids), with_fault(rename_best)],
    ids=["temperature 2 and own hidden", "own hidden", "ids swapped", "mass on a wrong token"],
)
async def test_the_canary_finds_what_changes_beside_own_logprobs(known, turn) -> None:
    expert, inspector = Turning(), Inspector(canary_every_s=0.0)

    assert await _inspect(inspector, expert, known)
    assert await _inspect(inspector, expert, known)
    turn(expert)

    with pytest.raises(SelfTestFailed, match="known"):
        await _inspect(inspector, expert, known)


async def test_hidden_own_logprobs_are_looked_up_among_the_entries(known) -> None:
    expert = Turning()
    hot(expert)

    with pytest.raises(SelfTestFailed, match="known"):
        await _inspect(Inspector(canary_every_s=0.0), expert, known)


async def test_a_new_version_is_not_held_against_the_old_answers(known) -> None:
    expert, inspector = Turning(), Inspector(canary_every_s=0.0)
    await _inspect(inspector, expert, known)

    expert.fault = hide_own
    newer = expert.info().model_copy(update={"version": "2"})
    expert.info = lambda: newer

    assert await _inspect(inspector, expert, known)


@pytest.fixture
def known_entries() -> KnownAnswers:
    """The best entries of the model at a few ids, without its log-probs of these ids."""
    prompt, response = Ngram().sample(8, 3), Ngram().sample(8, 4)
    rows = Ngram().logprobs_TV(prompt, response)[:-1]
    case = KnownCase(
        prompt_ids=tuple(prompt.tolist()),
        response_ids=tuple(response.tolist()),
        entries=tuple(
            tuple((int(i), float(row[i])) for i in np.argsort(-row)[:12]) for row in rows
        ),
    )
    return KnownAnswers(vocab_fingerprint=FINGERPRINT, cases=(case,))


@pytest.mark.parametrize("fault", [swap_ids, rename_best], ids=["ids swapped", "wrong token"])
async def test_known_entries_find_mass_on_wrong_tokens_at_the_first_canary(
    known_entries, fault
) -> None:
    expert = Turning()
    assert await _inspect(Inspector(canary_every_s=0.0), expert, known_entries)
    expert.fault = fault

    with pytest.raises(SelfTestFailed, match="known"):
        await _inspect(Inspector(canary_every_s=0.0), expert, known_entries)


async def test_other_known_cases_are_not_held_against_the_old_answers(known) -> None:
    expert, inspector = Turning(), Inspector(canary_every_s=0.0)
    await _inspect(inspector, expert, known)
    [case] = known.cases
    shorter = case.model_copy(
        update={"response_ids": case.response_ids[:5], "logprobs": (case.logprobs or ())[:5]}
    )

    assert await _inspect(inspector, expert, known.model_copy(update={"cases": (shorter,)}))


@contextlib.asynccontextmanager
async def _gateway_started(world: World, expert: Turning) -> AsyncIterator[Registry]:
    """Another registry on the same database, as after a restart of the gateway."""
    transport = httpx.ASGITransport(service_app(expert))

    def connect(url: str, key: str, addresses: Any) -> ServiceClient:
        return ServiceClient("http://e", retry=NO_RETRY, transport=transport)

    state = world.app.state
    registry = Registry(state.registry._database, connect, world.clock, world.settings)
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()


async def _inspected(registry: Registry) -> ServiceEntry:
    entry = registry._entries["turning"]
    while entry.detail == "it has not answered yet":
        await asyncio.sleep(0.01)
    return entry


@pytest.mark.parametrize("fault", [swap_ids, hide_own], ids=["ids swapped", "own hidden"])
async def test_a_restarted_gateway_compares_with_the_last_good_answers(
    world: World, known, fault
) -> None:
    expert, key_file = Turning(), world.settings.gateway.service_keys / "turning.key"
    key_file.parent.mkdir(parents=True, exist_ok=True)
    key_file.write_text("k" * 40)
    key_file.chmod(0o600)
    new = ServiceEntry(
        name="turning",
        role="expert",
        url="http://e",
        key_file=key_file,
        cost=0,
        priority=5,
        self_test=False,
        added_at_runtime=True,
        known=known,
    )
    async with asyncio.timeout(20), _gateway_started(world, expert) as before:
        await before.add(new)
        assert (await _inspected(before)).state == "ready"

    expert.fault = fault
    async with asyncio.timeout(20), _gateway_started(world, expert) as after:
        entry = await _inspected(after)

    assert (entry.state, entry.broken) == ("refused", True)
    assert "known: expected the answers of the last canary" in (entry.detail or "")


async def _failing(world: World, broken: bool) -> None:
    registry = world.app.state.registry
    entry = registry._entries["uniform"]
    if broken:
        entry.broken = True
        await registry._quarantine(entry, "known: temperature 2")
    else:
        await registry._note_good(entry, world.clock.now())
        entry.broken = False


async def _answered(world: World, key: str, response: Any) -> Any:
    [asked] = await world.trainer.submit_logprobs("uniform", [world.submission(key, response)])
    if asked.ticket.state != "done":
        await world.work()
    [outcome] = await world.trainer.collect_logprobs([asked.ticket.id])
    return asked, outcome


async def test_answers_since_the_last_good_canary_are_not_served(world: World) -> None:
    await _answered(world, "early", (1, 2))
    await _failing(world, broken=False)
    _, wrong = await _answered(world, "wrong", (1, 3))

    await _failing(world, broken=True)
    [seen] = await world.trainer.collect_logprobs([wrong.ticket.id])
    await _failing(world, broken=False)
    early, _ = await _answered(world, "early again", (1, 2))
    again, anew = await _answered(world, "wrong again", (1, 3))

    assert seen.answer is None
    assert seen.problem.code == "self-test-failed"
    assert early.ticket.state == "done"
    assert again.ticket.state == "queued"
    assert anew.answer is not None


async def test_an_expert_that_was_never_found_right_loses_nothing(world: World) -> None:
    _, outcome = await _answered(world, "a", (1, 2))

    await _failing(world, broken=True)
    [seen] = await world.trainer.collect_logprobs([outcome.ticket.id])

    assert seen.answer is not None


async def test_targets_of_quarantined_answers_are_listed(world: World) -> None:
    await _failing(world, broken=False)
    _, outcome = await _answered(world, "a", (1, 2))
    await _failing(world, broken=True)
    # As records of a trainer, of which nothing else is wanted here; references are not checked.
    with contextlib.closing(sqlite3.connect(world.folder / "gateway.db")) as database:
        database.execute(
            "INSERT INTO targets (id, rollout_id, builder_version, settings, settings_hash, "
            "content_hash, pack_sha256, created_at) VALUES ('t1', 'r1', '1', '{}', '', '', '', ?)",
            (world.clock.now(),),
        )
        row = ("t1", 0, outcome.ticket.answer_id)
        database.execute("INSERT INTO target_answers VALUES (?, ?, ?)", row)
        database.commit()

    page = await world.trainer.call("GET", "/v1/experts/uniform/quarantine", reply=Quarantine)

    assert [(t.id, t.rollout_id) for t in page.targets] == [("t1", "r1")]
