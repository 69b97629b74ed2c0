"""S9: what browsers are told about every reply, whatever it is."""

from __future__ import annotations

import httpx
import pytest

from preceptor_services.gateway.http.headers import STRICT

from ..world import World


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/livez", 200),
        ("/v1/experts", 401),
        ("/nowhere", 404),
        ("/v1/arrivals?after=-1", 401),
        ("/v1/tickets/x", 500),
    ],
)
async def test_S9_every_reply_tells_browsers_to_run_frame_and_store_nothing(
    world: World, path: str, status: int
) -> None:
    headers = {}
    if status == 500:
        headers["authorization"] = f"Bearer {world.settings.keys['trainer'].file.read_text()}"
        world.app.state.questions.outcomes.__dict__["database"] = None
    transport = httpx.ASGITransport(app=world.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        reply = await client.get(path, headers=headers)

    assert reply.status_code == status
    assert STRICT.items() <= dict(reply.headers).items()


async def test_S9_the_pages_for_people_are_framed_by_nobody(world: World) -> None:
    transport = httpx.ASGITransport(app=world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        replies = [await client.get(path) for path in ("/", "/corrections/")]

    for reply in replies:
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["x-content-type-options"] == "nosniff"


async def test_S9_no_reply_sets_a_cookie_or_takes_one_for_a_key(world: World) -> None:
    token = world.settings.keys["trainer"].file.read_text()
    transport = httpx.ASGITransport(app=world.app)
    cookies = {"authorization": f"Bearer {token}", "key": token}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway", cookies=cookies
    ) as client:
        replies = [await client.get(path) for path in ("/v1/experts", "/corrections/", "/")]

    assert replies[0].status_code == 401
    assert all("set-cookie" not in reply.headers for reply in replies)
