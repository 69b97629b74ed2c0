"""Keys end, are rotated and have limits of their own; what becomes of them is on record."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from preceptor_clients.contract.deployment import DeployedKey, Deployment, parse_deployment, to_toml
from preceptor_clients.contract.errors import KeyOverLimit, TooLarge, Unauthorised
from preceptor_clients.contract.operations import AuditPage
from preceptor_services.kit.clock import ServerClock
from preceptor_services.registry.keyring import Keyring
from preceptor_services.registry.rates import Rate
from preceptor_services.registry.secrets import previous_file, rotate

from ..world import MovedClock, World

DAY_S = 86_400.0


def _key(folder: Path, **fields: Any) -> DeployedKey:
    file = folder / "trainer.key"
    if not file.exists():
        file.write_text("first" + "k" * 40 + "\n")
    return DeployedKey(file=file, scopes=("trainer",), **fields)


def _keyring(key: DeployedKey) -> tuple[Keyring, MovedClock]:
    clock = MovedClock()
    return Keyring("h" * 40, {"trainer": key}, clock), clock


def _opens(keyring: Keyring, token: str) -> bool:
    try:
        return keyring.caller(f"Bearer {token}").name == "trainer"
    except Unauthorised:
        return False


def test_S2_a_key_opens_nothing_after_its_end_and_the_refusal_says_when_that_was(
    tmp_path: Path,
) -> None:
    end = datetime.now(UTC) + timedelta(days=1)
    key = _key(tmp_path, expires=end)
    keyring, clock = _keyring(key)
    token = key.file.read_text().strip()

    assert _opens(keyring, token)
    clock.moved_s = 2 * DAY_S
    with pytest.raises(Unauthorised, match=end.date().isoformat()):
        keyring.caller(f"Bearer {token}")


def test_an_end_without_a_time_zone_is_refused() -> None:
    text = '[keys.a]\nfile = "a.key"\nscopes = ["reader"]\nexpires = 2027-01-01T00:00:00'

    with pytest.raises(ValueError, match="expires"):
        parse_deployment(text)
    assert parse_deployment(text + "Z").keys["a"].expires == datetime(2027, 1, 1, tzinfo=UTC)


def test_ends_and_limits_of_keys_come_back_from_toml(tmp_path: Path) -> None:
    key = _key(tmp_path, expires=datetime(2027, 1, 1, tzinfo=UTC), max_tokens_in_flight=5)
    deployment = Deployment(keys={"trainer": key})

    assert parse_deployment(to_toml(deployment)) == deployment


def test_S2_after_a_rotation_both_secrets_open_until_the_grace_time_is_over(
    tmp_path: Path,
) -> None:
    key = _key(tmp_path)
    keyring, clock = _keyring(key)
    old = key.file.read_text().strip()

    rotate(key.file, 3600.0, clock.now())
    changed = keyring.refresh()
    new = key.file.read_text().strip()
    both = [_opens(keyring, old), _opens(keyring, new)]
    clock.moved_s = 3700.0

    assert (changed, both) == (["trainer"], [True, True])
    assert [_opens(keyring, old), _opens(keyring, new)] == [False, True]
    assert previous_file(key.file).stat().st_mode & 0o077 == 0


def test_a_rotation_never_ends_an_earlier_secret_unasked(tmp_path: Path) -> None:
    key, now = _key(tmp_path), time.time()
    rotate(key.file, 3600.0, now)
    second = key.file.read_text()

    with pytest.raises(ValueError, match="--drop-previous"):
        rotate(key.file, 3600.0, now)

    assert key.file.read_text() == second
    rotate(key.file, 3600.0, now, drop_previous=True)
    assert key.file.read_text() != second


def test_a_key_file_that_cannot_be_read_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    key = _key(tmp_path)
    keyring, _ = _keyring(key)
    old = key.file.read_text().strip()

    key.file.write_text("short")

    assert keyring.refresh() == []
    assert _opens(keyring, old)


def test_a_rate_lets_a_seconds_worth_pass_at_once_and_then_one_at_a_time() -> None:
    now = [0.0]
    rate = Rate(4.0, clock=lambda: now[0])

    burst = [rate.wait_s() for _ in range(5)]
    now[0] = 0.25

    assert burst == [0.0, 0.0, 0.0, 0.0, 0.25]
    assert [rate.wait_s(), rate.wait_s()] == [0.0, 0.25]


def test_S3_a_key_over_its_rate_is_told_when_to_come_again(tmp_path: Path) -> None:
    keyring, _ = _keyring(key := _key(tmp_path, max_requests_per_s=0.5))
    authorization = f"Bearer {key.file.read_text().strip()}"
    keyring.caller(authorization)

    with pytest.raises(KeyOverLimit) as refused:
        keyring.caller(authorization)

    assert refused.value.status == 429
    assert refused.value.retry_after_s == pytest.approx(2.0, abs=0.5)


async def test_S3_tokens_in_flight_are_bounded_by_key_and_free_again_once_answered(
    world: World,
) -> None:
    submissions = world.app.state.questions.submissions
    submissions._most_tokens = {"trainer": 12}  # a question has 5: two ids and a response of three
    for number, name in enumerate(("a", "b")):
        await world.trainer.submit_logprobs("uniform", [world.submission(name, (1, 2, number))])

    with pytest.raises(KeyOverLimit) as refused:
        await world.trainer.submit_logprobs(
            "uniform", [world.submission("c", (1, 2, 9))], timeout_s=0.5
        )
    [joined] = await world.trainer.submit_logprobs("uniform", [world.submission("a", (1, 2, 0))])
    other = await world.clients["other"].submit_logprobs(
        "uniform", [world.submission("c", (1, 2, 9))]
    )
    await world.work()
    [after] = await world.trainer.submit_logprobs("uniform", [world.submission("d", (1, 2, 8))])

    assert refused.value.retry_after_s == 1.0
    assert joined.problem is None
    assert other[0].problem is None
    assert after.ticket.state == "queued"


async def test_S3_questions_that_never_fit_a_keys_limit_are_too_large(world: World) -> None:
    world.app.state.questions.submissions._most_tokens = {"trainer": 4}

    with pytest.raises(TooLarge, match="in parts"):
        await world.trainer.submit_logprobs("uniform", [world.submission("a")])


async def test_S2_what_happens_to_keys_is_on_record_and_no_secret_is(world: World) -> None:
    page = await world.clients["admin"].call("GET", "/v1/audit", reply=AuditPage)
    added = {entry.subject for entry in page.entries if entry.action == "key.add"}
    text = page.model_dump_json() + (world.settings.gateway.blobs / "audit.jsonl").read_text()

    assert added == set(world.settings.keys)
    for key in world.settings.keys.values():
        assert key.file.read_text().strip() not in text


async def test_S2_a_key_that_was_rotated_while_the_gateway_runs_opens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.settings.keys["reader"].file
    rotate(file, 3600.0, ServerClock().now())
    world.app.state.keyring.refresh()

    async with world.client(file.read_text().strip()) as client:
        services = await client.exchange("GET", "/v1/experts")

    assert b"uniform" in services.body


async def test_S2_every_wrong_key_is_refused_alike_and_none_is_repeated(world: World) -> None:
    token = world.settings.keys["trainer"].file.read_text()
    wrong = ["", token[:-1], token + "x", token.swapcase(), "x" * len(token), "é" * 10, "\t"]
    transport = httpx.ASGITransport(app=world.app)

    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        replies = [
            await client.get(
                "/v1/experts", headers={"authorization": f"Bearer {word}".encode("latin-1")}
            )
            for word in wrong
        ]

    assert {reply.status_code for reply in replies} == {401}
    assert len({json.dumps(reply.json(), sort_keys=True) for reply in replies}) == 1


async def test_S2_no_key_is_in_what_the_gateway_logs(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for client in world.clients.values():
        await client.exchange("GET", "/v1/experts")
    await world.trainer.submit_logprobs("uniform", [world.submission("a")])
    await world.work()

    assert caplog.records
    for key in world.settings.keys.values():
        assert key.file.read_text().strip() not in caplog.text
