"""The gateway's own address."""

from __future__ import annotations

import re

import httpx
import pytest

from preceptor_services.gateway.routes.home import documentation

from ..world import World

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def get(world: World, path: str, accept: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app)) as http:
        return await http.get(f"http://gateway/{path}", headers={"accept": accept})


async def test_a_browser_is_greeted_with_links_that_lead_somewhere(world: World) -> None:
    page = await get(world, "", BROWSER)
    links = re.findall(r'href="([^"]+)"', page.text)
    found = {link: (await get(world, link, "*/*")).status_code for link in links}

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert {"corrections/", "openapi.json", "livez", "readyz"} <= set(found)
    assert found.pop("metrics") == 401
    assert set(found.values()) == {200}
    assert "Documentation" in page.text


async def test_the_page_runs_nothing_and_loads_nothing(world: World) -> None:
    page = await get(world, "", BROWSER)

    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe-inline" not in policy
    assert "<script" not in page.text
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
async def test_programs_get_the_same_as_json(world: World, accept: str) -> None:
    index = await get(world, "", accept)

    assert index.headers["content-type"] == "application/json"
    assert index.json()["links"]["corrections"] == "corrections/"
    assert index.json()["documentation"]
    assert index.headers["vary"] == "accept"


def test_the_documentation_is_where_the_package_says() -> None:
    urls = ["Source, https://example.org/code", "Documentation, https://example.org/docs"]

    assert documentation(urls) == "https://example.org/docs"
    assert documentation(urls[:1]) is None
