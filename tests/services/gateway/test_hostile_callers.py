"""What callers send can cost them their request, and never the gateway or its other callers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from preceptor_services.gateway.http import bodies
from preceptor_services.kit import clock as kit_clock
from preceptor_services.kit.clock import KeptClock
from preceptor_services.store.database import Database

from ..world import World

STEP = {"run": "r", "lineage": "l", "loss": 0.5, "metrics": {}, "consumed": []}
STEP |= {"weights_before": "p/l/0", "weights_after": "p/l/1"}


async def _send(world: World, method: str, path: str, key: str = "trainer", **options: Any) -> Any:
    transport = httpx.ASGITransport(app=world.app, raise_app_exceptions=False)
    token = world.settings.keys[key].file.read_text()
    headers = {"authorization": f"Bearer {token}", **options.pop("headers", {})}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, headers=headers, **options)


async def _post_text(world: World, path: str, body: str, key: str = "trainer") -> Any:
    headers = {"content-type": "application/json"}
    return await _send(world, "POST", path, key, content=body.encode(), headers=headers)


@pytest.mark.parametrize("number", ["-1", "2147483648", "1" + "0" * 30, "1e999", "-1e999", "0.5"])
async def test_a_step_that_no_column_holds_is_422(world: World, number: str) -> None:
    body = json.dumps(STEP)[:-1] + f', "step": {number}}}'

    response = await _post_text(world, "/v1/steps", body)

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "step"


@pytest.mark.parametrize("number", ["1" + "0" * 30, "-9223372036854775809", "1e999"])
async def test_a_number_anywhere_in_free_data_is_bounded(world: World, number: str) -> None:
    config = f'{{"a": [1, {{"b": {number}}}]}}'
    body = f'{{"run": "r", "seed": 0, "versions": {{}}, "config": {config}}}'

    response = await _post_text(world, "/v1/runs", body)

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "config.a[1].b"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/arrivals?run=r&after=4294967296",
        "/v1/targets/t/trace?position=-1",
        "/v1/targets/t/trace?position=99999999999999999999",
        "/v1/weights/p/l/-1",
        "/v1/weights/p/l/99999999999999999999",
    ],
)
async def test_numbers_of_an_address_are_bounded(world: World, path: str) -> None:
    assert (await _send(world, "GET", path)).status_code == 422


@pytest.mark.parametrize("word", ['"false"', '"no"', "0", "1", '"true"'])
async def test_a_truth_value_is_true_or_false_and_nothing_else(world: World, word: str) -> None:
    body = '{"name": "x", "url": "http://127.0.0.1:1", "key_file": "service.key", "self_test": %s}'

    response = await _post_text(world, "/v1/experts", body % word, key="admin")

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "self_test"


async def test_no_answer_leads_where_the_host_header_says(world: World) -> None:
    for path in ("/v1/experts/", "/corrections", "/livez/", "/v1/runs/"):
        response = await _send(world, "GET", path, headers={"host": "evil.example"})

        assert "evil" not in response.headers.get("location", "")
        assert "evil" not in response.text


async def test_json_that_would_hold_up_others_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_MOST_JSON_BYTES", 100_000)
    body = '{"expert": "uniform", "submissions": [], "x": "%s"}' % ("y" * 150_000)

    response = await _post_text(world, "/v1/logprobs", body)

    assert response.status_code == 413
    assert "frame" in response.json()["detail"]


async def test_a_request_holds_no_more_submissions_than_can_be_planned_at_once(
    world: World,
) -> None:
    one = json.loads(world.submission("a").model_dump_json(exclude_none=True))
    body = {"expert": "uniform", "submissions": [one] * 4097}

    response = await _send(world, "POST", "/v1/logprobs", json=body)

    assert response.status_code in (413, 422)


async def test_a_damaged_blob_fails_its_own_question_which_is_asked_again(world: World) -> None:
    submissions = [world.submission("a", (1, 2)), world.submission("b", (1, 3))]
    tickets = []
    for submission in submissions:
        [outcome] = await world.trainer.submit_logprobs("uniform", [submission])
        await world.work()
        tickets.append(outcome.ticket.id)
    recent = world.app.state.questions.outcomes._answer_blobs._recent
    first = next(iter(recent))
    recent.clear()
    [file] = Path(world.settings.gateway.blobs).rglob(f"{first}*")
    file.write_bytes(b"damaged")

    broken, whole = await world.trainer.collect_logprobs(tickets)
    again = submissions[0].model_copy(update={"idempotency_key": "c"})
    [asked] = await world.trainer.submit_logprobs("uniform", [again])
    await world.work()
    [answered] = await world.trainer.collect_logprobs([asked.ticket.id])

    assert broken.problem.code == "blob-damaged"
    assert whole.answer is not None
    assert asked.ticket.state == "queued"
    assert answered.answer is not None


async def test_files_with_answers_are_their_owners_alone(tmp_path: Path) -> None:
    database = Database.open(f"sqlite+aiosqlite:///{tmp_path}/new/own.db")
    await database.migrate()
    await database.ping()  # its connection stays open

    assert (tmp_path / "new" / "own.db").stat().st_mode & 0o077 == 0
    assert (tmp_path / "new" / "own.db-wal").stat().st_mode & 0o077 == 0
    await database.aclose()


def test_time_goes_on_after_a_restart_whatever_the_wall_clock_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = KeptClock(tmp_path / "clock.json").now()
    wall = kit_clock.time.time

    for jump_s in (-3600.0, 3600.0):
        monkeypatch.setattr(kit_clock.time, "time", lambda jump_s=jump_s: wall() + jump_s)
        assert 0 <= KeptClock(tmp_path / "clock.json").now() - before < 60


def test_on_another_boot_time_does_not_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = KeptClock(tmp_path / "clock.json")
    before = clock.now()
    clock.keep()
    wall = kit_clock.time.time
    monkeypatch.setattr(kit_clock, "_boot", lambda: "another")
    monkeypatch.setattr(kit_clock.time, "time", lambda: wall() - 3600.0)

    assert KeptClock(tmp_path / "clock.json").now() >= before
