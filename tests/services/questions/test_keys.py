"""What two questions must have in common to share an answer."""

from preceptor_clients.contract.schemas import Episode, FeedbackQuery, Message, Prompt
from preceptor_services.questions.keys import feedback_answer_key


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
