"""The response has to choose the right one of several answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from preceptor_clients.sdk.judging import Feedback, Response
from preceptor_services.feedback.verifiers.columns import answers_of, shown
from preceptor_services.feedback.verifiers.marked import last_boxed, last_tagged


def choice(
    row: Mapping[str, Any],
    response: Response,
    *,
    answer: str = "answer",
    choices: list[str] | str = "choices",
    tag: str | None = None,
) -> Feedback:
    r"""Finds which of the choices the response names last, as a word of its own.

    Where the response marks its answer, by `<answer>` or `\boxed`, only what it marks counts.

    Args:
        row: The row of data.
        response: The student's text.
        answer: Column with the right choice; a whole number is its place in the list, from 0.
        choices: The choices, or the column that has them; A to Z where a row has none. An object
            with `label` and `text` offers its labels.
        tag: Tag that has to be around the answer, as `answer` in the papers; a response without it
            is wrong.
    """
    offered = _offered(row, choices)
    right = [_right(one, offered) for one in answers_of(row, answer)]
    marked = last_tagged(response, tag or "answer")
    if tag is not None and marked is None:
        cut = "the response was cut off; " if response.cut_off else ""
        return Feedback(0.0, f"{cut}there is no <{tag}> with the answer, which is {shown(right)}")
    marked = last_boxed(response) if marked is None else marked
    given = _chosen(response, marked, offered)
    cut = "the response was cut off; " if response.cut_off else ""
    if given is None:
        listed = ", ".join(offered)
        return Feedback(0.0, f"{cut}none of {listed} was chosen; the answer is {shown(right)}")
    others = _others(marked, given, offered)
    if others:
        several = ", ".join([given, *others])
        return Feedback(0.0, f"{cut}{several} are marked, not one; the answer is {shown(right)}")
    if given in right:
        return Feedback(1.0)
    return Feedback(0.0, f"{cut}{given} is wrong; the answer is {shown(right)}")


def _offered(row: Mapping[str, Any], choices: list[str] | str) -> list[str]:
    if isinstance(choices, list):
        return [str(one) for one in choices]
    if row.get(choices) is not None:
        listed = answers_of(row, choices)
        if len(listed) == 1 and isinstance(listed[0], dict):
            listed = answers_of(cast("dict[str, Any]", listed[0]), "label")
        return [str(one) for one in listed]
    return [chr(ord("A") + i) for i in range(26)]


def _right(value: Any, offered: list[str]) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and str(value) not in offered:
        if not 0 <= value < len(offered):
            raise ValueError(f"the answer is choice {value}, but there are {len(offered)}")
        return offered[value]
    if str(value) not in offered:
        raise ValueError(f"the answer {value!r} is none of {', '.join(offered)}")
    return str(value)


def _chosen(text: str, marked: str | None, offered: list[str]) -> str | None:
    if marked is None:
        return _last_named(text, offered)
    # Alone, `b` is no word of English but a choice; before a dot, `B` is one and not its text.
    plain = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}", r"\1", marked).strip(" \n().*$")
    same = [one for one in offered if one.casefold() == plain.casefold()]
    label = re.match(r"(\w+)\s*[).:]", plain)
    if not same and label is not None:
        same = [one for one in offered if one == label[1]]
    return same[0] if same else _last_named(marked, offered)


def _others(marked: str | None, given: str, offered: list[str]) -> list[str]:
    """Further labels of a marked answer that is nothing but labels, as in `A, B`."""
    words = re.findall(r"\w+", marked or "")
    labels = [one for one in dict.fromkeys(words) if one in offered and one != given]
    only = all(word in offered or word in ("and", "or") for word in words)
    return labels if only else []


def _last_named(text: str, offered: list[str]) -> str | None:
    """The choice that ends last; of two that end together, the longer one."""
    ends: list[tuple[int, int, str]] = []
    for one in offered:
        # A single letter must be a capital: `a` is a word of English.
        flags = 0 if len(one) == 1 else re.IGNORECASE
        for match in re.finditer(rf"(?<!\w){re.escape(one)}(?!\w)", text, flags):
            ends.append((match.end(), len(one), one))
    return max(ends)[2] if ends else None
