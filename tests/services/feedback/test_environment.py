"""What an environment said of an attempt, as an item."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from preceptor_clients.contract.checks import check_feedback
from preceptor_clients.contract.schemas import Episode, FeedbackItem, FeedbackQuery, Message
from preceptor_services.feedback.environment import EnvironmentVerdict

TURNS = (Message(role="assistant", content="a"),)


async def judged(query: FeedbackQuery) -> FeedbackItem:
    [answer] = await EnvironmentVerdict().feedback([query])
    check_feedback(query, answer)
    return answer.items[0]


async def test_its_reward_and_its_failures_are_score_and_text(
    make_query: Callable[..., FeedbackQuery],
) -> None:
    episode = Episode(
        turns=TURNS, environment="maze 3", reward=0.0, text="a wall", details={"steps": 2}
    )

    item = await judged(make_query("a", episode=episode))

    assert (item.score, item.text, item.error) == (0.0, "a wall", None)
    assert item.details == {"environment": "maze 3", "steps": 2}


@pytest.mark.parametrize(
    ("episode", "said"),
    [
        (None, "no environment judged this attempt"),
        (Episode(turns=TURNS), "no environment judged this attempt"),
        (Episode(turns=TURNS, environment="maze 3"), "the environment gave no reward"),
        (
            Episode(turns=TURNS, environment="maze 3", text="a wall"),
            "the environment gave no reward: a wall",
        ),
    ],
)
async def test_no_reward_is_an_error_and_no_score(
    make_query: Callable[..., FeedbackQuery], episode: Episode | None, said: str
) -> None:
    item = await judged(make_query("a", episode=episode))

    assert (item.error, item.score, item.text) == (said, None, None)
