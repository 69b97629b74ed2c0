"""Claims about which part of a response is the program."""

from __future__ import annotations

import pytest

from preceptor_services.feedback.executor.extraction import fenced_program


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("First:\n```\na\n```\nBetter:\n```py\nb\n```\nDone.", "b\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("~~~\nx\n~~~", "x\n"),
        ("````md\n```\nx\n```\n````", "```\nx\n```\n"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\r\n"),
        ("```python\n```", "\n"),
        ("```python\nx = 1", None),
        ("```\na\n```\n```python\nb = ", "a\n"),
        ("x = 1", None),
        ("`x = 1`", None),
        ("", None),
        ("<think>\n```\ndraft\n```\n</think>\nThe answer is 3.", None),
        ("<think>\n```\ndraft\n```\n</think>\n```\nfinal\n```", "final\n"),
        ("<think>\n```\ndraft\n```", None),
    ],
)
def test_the_last_closed_block_outside_of_thoughts_is_the_program(
    response: str, program: str | None
) -> None:
    assert fenced_program(response) == program


def test_a_response_of_many_fences_is_read_in_one_pass() -> None:
    assert fenced_program("```\n" * 100_001) == "\n"
