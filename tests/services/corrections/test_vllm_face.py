"""People's queue asked as if it were a vLLM server: refused until every position is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from .conftest import Town

PROMPT_ID, RESPONSE = 63, [*b"x[0]", 257]


@pytest.fixture
def people_options() -> dict[str, Any]:
    return {"accepted": True}


async def ask_face(town: Town) -> httpx.Response:
    """A completion request, while a dispatcher works beside it."""
    key = town.office.settings.keys["trainer"].file.read_text()
    body = {"prompt": [PROMPT_ID, *RESPONSE], "max_tokens": 1, "prompt_logprobs": 1}
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        transport=town.office.transport(), base_url="http://g/vllm/people", headers=headers
    ) as http:
        asked = asyncio.create_task(http.post("/v1/completions", json=body, timeout=30))
        while not asked.done():
            if town.office.queue.entries:
                await town.dispatch()
            await asyncio.sleep(0.01)
        return asked.result()


def refusal(response: httpx.Response) -> str:
    assert response.status_code == 409, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "not-answered"
    assert "prompt_logprobs" not in response.text
    return response.json()["detail"]


async def test_people_who_have_not_worked_yet_are_a_refusal_that_says_come_back(town: Town) -> None:
    response = await ask_face(town)

    assert "the answer is waiting" in refusal(response)
    assert int(response.headers["retry-after"]) >= 1


async def test_an_edit_that_leaves_positions_without_an_opinion_is_a_refusal_that_names_one(
    town: Town,
) -> None:
    ann = await town.office.person("ann")
    await ask_face(town)
    await town.correct(ann, "y")
    await town.people.answer_due()

    assert "position 2 has no answer" in refusal(await ask_face(town))


async def test_a_queue_whose_positions_are_all_answered_beforehand_is_a_server_like_any_other(
    town: Town,
) -> None:
    ann = await town.office.person("ann")
    await ask_face(town)
    await town.correct(ann, "x[9]")
    await town.people.answer_due()

    response = await ask_face(town)

    assert response.status_code == 200, response.text
    first, *rows = response.json()["choices"][0]["prompt_logprobs"]
    assert first is None
    # A point says nothing of the token that it replaces, so there is no number for it either.
    assert [list(row) for row in rows] == [[str(token)] for token in [*b"x[9]", 257]]
    assert {entry["logprob"] for row in rows for entry in row.values()} == {0.0}
