"""Log lines of every process: one format, with the id of the request."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from preceptor_clients.kit import request_ids
from preceptor_clients.kit.logs import JsonFormatter, TextFormatter, log_to_stderr


def _record(message: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "preceptor.test", "levelname": "INFO", "msg": message, **fields}
    )


def test_a_json_line_has_the_message_and_the_id_of_the_request() -> None:
    with request_ids.serving("r-1"):
        line = json.loads(JsonFormatter().format(_record("two\nlines of ü")))

    assert line["message"] == "two\nlines of ü"
    assert (line["level"], line["logger"], line["request_id"]) == ("INFO", "preceptor.test", "r-1")


def test_a_json_line_outside_a_request_has_no_id_and_stays_one_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        text = JsonFormatter().format(_record("failed", exc_info=sys.exc_info()))

    assert "\n" not in text
    assert "request_id" not in json.loads(text)
    assert "ValueError: first" in json.loads(text)["exception"]


def test_a_text_line_ends_with_the_id_of_the_request() -> None:
    with request_ids.serving("r-1"):
        assert TextFormatter().format(_record("said")).endswith("said [r-1]")
    assert TextFormatter().format(_record("said")).endswith("said")


@pytest.mark.parametrize(
    ("variable", "value"), [("PRECEPTOR_LOG_FORMAT", "xml"), ("PRECEPTOR_LOG_LEVEL", "LOUD")]
)
def test_an_unknown_format_or_level_is_named(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{variable}: '{value}' is not one of"):
        log_to_stderr({variable: value})


@pytest.mark.parametrize("sent", [None, "", "two words", "line\nbreak", "x" * 65, "ü"])
def test_an_id_that_may_not_go_into_a_log_is_replaced(sent: str | None) -> None:
    assert request_ids.received(sent) != sent
    assert len(request_ids.received(sent)) == 32


def test_a_call_for_many_requests_names_the_first_few_once() -> None:
    ids = request_ids.joined([None, "a", "b", "a", *(f"c{i}" for i in range(20))])

    assert ids is not None
    assert ids.split(",")[:3] == ["a", "b", "c0"]
    assert len(ids.split(",")) == 8
    assert request_ids.received_joined(ids) == ids
