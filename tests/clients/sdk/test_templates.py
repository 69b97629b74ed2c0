"""Feedback rendered into an expert's context."""

from dataclasses import dataclass

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from preceptor_clients.sdk.templates import COMPACT, PAPERS, SDPO, FeedbackTemplate, Message

TEMPLATES = pytest.mark.parametrize("template", [COMPACT, PAPERS, SDPO], ids=lambda t: t.name)


@dataclass(frozen=True)
class Item:
    kind: str
    text: str | None
    expert_may_see: bool = True


def _chat(*contents: str) -> list[Message]:
    return [{"role": "user", "content": content} for content in contents]


DEMONSTRATION = Item("demonstration", "sorted(x)")
TRACE = Item("execution", "[2]->[3] not [2]")


@TEMPLATES
def test_sections_stand_in_order(template: FeedbackTemplate) -> None:
    text = template.render(_chat("[1]->[2]"), [TRACE, DEMONSTRATION])[-1]["content"]

    positions = [text.index(part) for part in ("[1]->[2]", "sorted(x)", "[2]->[3] not [2]")]
    assert positions == sorted(positions)
    assert len(text) > positions[-1] + len(TRACE.text or "")


@TEMPLATES
def test_without_items_the_chat_is_unchanged(template: FeedbackTemplate) -> None:
    chat = _chat("[1]->[2]")

    assert template.render(chat, []) == chat
    assert template.render(chat, [Item("execution", "")]) == chat
    assert template.render(chat, [Item("verdict", None)]) == chat


@TEMPLATES
def test_only_the_last_user_turn_changes(template: FeedbackTemplate) -> None:
    chat: list[Message] = [
        {"role": "system", "content": "be brief"},
        *_chat("first"),
        {"role": "assistant", "content": "answer"},
        *_chat("second"),
    ]

    rendered = template.render(chat, [TRACE])

    assert rendered[:-1] == chat[:-1]
    assert rendered[-1]["role"] == "user"
    assert rendered[-1]["content"].startswith("second\n")
    assert chat[-1]["content"] == "second"


@pytest.mark.parametrize("kind", ["demonstration", "reference", "correction"])
def test_right_answers_share_a_section(kind: str) -> None:
    text = COMPACT.render(_chat("p"), [Item(kind, "x[1:]")])[-1]["content"]

    assert text == "p\nright: x[1:]\nagain"


@pytest.mark.parametrize("kind", ["execution", "verdict", "judge", "comment"])
def test_remarks_share_a_section(kind: str) -> None:
    text = COMPACT.render(_chat("p"), [Item(kind, "no")])[-1]["content"]

    assert text == "p\nwrong:\nno\nagain"


@TEMPLATES
def test_an_item_that_may_not_be_seen_is_refused(template: FeedbackTemplate) -> None:
    with pytest.raises(ValueError, match="expert_may_see"):
        template.render(_chat("p"), [Item("reference", "x", expert_may_see=False)])


@TEMPLATES
def test_an_unknown_kind_is_refused(template: FeedbackTemplate) -> None:
    with pytest.raises(ValueError, match="'attempt'"):
        template.render(_chat("p"), [Item("attempt", "x")])


@TEMPLATES
def test_a_chat_must_end_with_the_user(template: FeedbackTemplate) -> None:
    with pytest.raises(ValueError, match="user turn"):
        template.render([{"role": "assistant", "content": "x"}], [TRACE])
    with pytest.raises(ValueError, match="user turn"):
        template.render([], [TRACE])


def test_the_version_follows_the_text() -> None:
    longer = FeedbackTemplate("compact", COMPACT.source_jinja + ".")

    assert longer.version != COMPACT.version
    assert FeedbackTemplate("other", COMPACT.source_jinja).version == COMPACT.version


def test_feedback_is_text_and_not_template() -> None:
    text = COMPACT.render(_chat("{{ 1 + 1 }}"), [Item("comment", "{% raw %}<b>")])[-1]["content"]

    assert text == "{{ 1 + 1 }}\nwrong:\n{% raw %}<b>\nagain"


def test_a_source_cannot_reach_python() -> None:
    template = FeedbackTemplate("bad", "{{ prompt.__class__.__mro__ }}")

    with pytest.raises(SecurityError):
        template.render(_chat("p"), [TRACE])


def test_a_name_that_no_section_has_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        FeedbackTemplate("bad", "{{ attempt }}").render(_chat("p"), [TRACE])


def test_the_compact_template_is_the_one_the_student_was_trained_on() -> None:
    # a change of this text needs a new student
    assert COMPACT.version == "3933f4db85ea"
