"""What two questions must have in common to share an answer."""

import numpy as np

from preceptor_clients.contract.schemas import (
    Episode,
    FeedbackItem,
    FeedbackQuery,
    Message,
    PrefixQuery,
    Prompt,
    WantedWeights,
)
from preceptor_services.questions.keys import feedback_answer_key, payload_hash


def key(episode: Episode | None) -> str:
    query = FeedbackQuery(
        rollout_id="r",
        prompt=Prompt(messages=(Message(role="user", content="?"),)),
        response_ids=[1],
        response_text="a",
        finish_reason="stop",
        payload_sha256="0" * 64,
        episode=episode,
    )
    return feedback_answer_key("judge", "1", query)


def test_equal_texts_of_two_episodes_are_two_questions():
    turns = (Message(role="assistant", content="a"),)
    keys = [key(None), *(key(Episode(turns=turns, reward=reward)) for reward in (None, 0.0, 1.0))]

    assert len(set(keys)) == 4
    assert key(Episode(turns=turns, reward=1.0)) == keys[3]


def test_the_hash_of_a_stored_payload_stays():
    # Tickets keep it: a new release must know the query under an idempotency key again.
    item = FeedbackItem(id="i", kind="judge", source="s", version="1", details={"a": [None, 1.5]})
    query = PrefixQuery(
        prompt=Prompt(messages=(Message(role="user", content="?"),), ids=[1, 2]),
        response_ids=[3, 4],
        owned=[True, False],
        positions=((0, 1),),
        feedback=(item,),
        vocab_fingerprint="ab" * 32,
        weights=WantedWeights(mode="latest", policy="p"),
        entropy_P=np.array([0.5], np.float32),
        priority=1,
    )

    assert payload_hash("e", query) == (
        "648ae56b82d0d7867c3eb1bfcd8c2cd390abc4c9dab752e477e76c1b0d4665d2"
    )
