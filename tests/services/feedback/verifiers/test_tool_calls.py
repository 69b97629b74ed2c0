"""Claims about calls of tools: which forms are read, and what is said of wrong ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from preceptor_clients.sdk import Response
from preceptor_services.feedback.verifiers.tool_calls import tool_calls

WANTED = [
    {"Action": "getWeather", "Action_Input": '{"city": "Rome", "days": 2}'},
    {"Action": "getNews", "Action_Input": {"topic": "sport"}},
]
LINES = """I look at both.
Action: getNews
Action Input: {"topic": "sport"}
Action: getWeather
Action Input: {"city": "Rome",
  "days": 2.0}
"""
TAGS = """<tool_call>
{"name": "getWeather", "arguments": {"city": "Rome", "days": 2}}
</tool_call>
<tool_call>
{"function": {"name": "getNews", "arguments": "{\\"topic\\": \\"sport\\"}"}}
</tool_call>"""
OBJECTS = """Sure: [{"name": "getWeather", "parameters": {"city": "Rome", "days": 2}},
{"name": "getNews", "parameters": {"topic": "sport"}}]"""


@pytest.mark.parametrize("answer", [WANTED, json.dumps(WANTED)], ids=["list", "text"])
@pytest.mark.parametrize("response", [LINES, TAGS, OBJECTS], ids=["lines", "tags", "objects"])
@pytest.mark.parametrize("match", ["merged", "calls"])
def test_the_right_calls_in_any_form_and_order_score_one(
    answer: Any, response: str, match: Any
) -> None:
    found = tool_calls({"answer": answer}, Response(response), match=match)

    assert (found.score, found.text) == (1.0, None)


def call(name: str, arguments: str) -> str:
    return f"Action: {name}\nAction Input: {arguments}\n"


WEATHER = call("getWeather", '{"city": "Rome", "days": 2}')
NEWS = call("getNews", '{"topic": "sport"}')


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("It rains.", "no tool is called; getNews, getWeather should be"),
        (WEATHER, 'getNews is not called; the argument topic is missing; it is "sport"'),
        (WEATHER + NEWS + NEWS, "getNews is called too often"),
        (WEATHER + call("getNews", "{}"), "the argument topic is missing"),
        (WEATHER + call("getNews", '{"topic": "art"}'), 'topic is "art", not "sport"'),
        (WEATHER + call("getNews", '{"topic": "sport", "n": 1}'), "the argument n is not wanted"),
        (NEWS + call("getWeather", '{"city": "Rome", "days": true}'), "days is true, not 2"),
        (
            WEATHER + call("getNews", '{"topic": "sp'),
            "the input of the call of getNews is not JSON",
        ),
        (WEATHER + call("getNews", "[1]"), "the input of the call of getNews is not a JSON object"),
        (WEATHER + "Action: getNews", "the call of getNews has no line `Action Input:`"),
        ("<tool_call>{broken</tool_call>", "the text in <tool_call> is not JSON"),
        ("<tool_call>[]</tool_call>", "a call is a list"),
        ('{"name": ' * 3000, "no tool is called"),
        ("<tool_call>{}</tool_call>", "a call has no name"),
    ],
)
def test_a_wrong_call_scores_zero_and_is_told_what_is_wrong(response: str, said: str) -> None:
    found = tool_calls({"answer": WANTED}, Response(response))

    assert found.score == 0.0
    assert said in str(found.text)


def test_arguments_at_the_wrong_call_count_where_calls_are_compared_one_by_one() -> None:
    row = {"answer": [{"name": "a", "arguments": {"x": 1}}, {"name": "a", "arguments": {"y": 2}}]}
    swapped = Response(call("a", '{"x": 1, "y": 2}') + call("a", "{}"))

    assert tool_calls(row, swapped).score == 1.0
    found = tool_calls(row, swapped, match="calls")
    assert found.score == 0.0
    assert "a: the argument y is not wanted" in str(found.text)


def test_a_call_that_is_wanted_twice_has_to_come_twice() -> None:
    row = {"answer": [{"name": "a", "arguments": {}}] * 2}

    assert tool_calls(row, Response(call("a", "{}"))).text == "a is not called"


def test_no_call_is_right_where_none_is_wanted() -> None:
    assert tool_calls({"answer": []}, Response("It rains.")).score == 1.0


@pytest.mark.parametrize("answer", ["{broken", [{"Action": "a", "Action_Input": "{"}], [1], None])
def test_a_row_whose_calls_cannot_be_read_is_an_error(answer: Any) -> None:
    with pytest.raises(ValueError, match="column 'answer'"):
        tool_calls({"answer": answer}, Response(WEATHER))


def test_a_response_that_was_cut_off_is_told_so() -> None:
    found = tool_calls({"answer": WANTED}, Response(WEATHER, "length"))

    assert str(found.text).startswith("the response was cut off; getNews is not called")
