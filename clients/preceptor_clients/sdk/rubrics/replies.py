"""Reads a judge's reply. What cannot be read for certain is refused, never guessed.

A verdict is not searched for in the text: a judge may quote what it judges, and the quotation may
look like a verdict. The whole reply is the JSON object, or the one word. Thoughts before the reply
are left out; thoughts without an end are a reply that was cut off.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, cast

from preceptor_clients.sdk.rubrics.rubric import Rubric, Verdict

_THOUGHTS: Final = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)
_FENCE: Final = re.compile(r"```(?:json)?[ \t]*\n(.*)\n```", re.DOTALL)
_WORD: Final = re.compile(
    r"\W*(?:(?:the |my )?(?:answer|verdict)(?: is)?\W+)?(yes|no)\b"
    r"(?!\W*(?:or\W+|and\W+)?(?:yes|no)\b)",
    re.IGNORECASE,
)
"""Yes or no, alone or as `the answer is no`, without the other word right behind it."""
_YES: Final = {"yes": True, "no": False}
_SHOWN: Final = 120
_MOST_REASON: Final = 2000
"""Characters kept of a reason."""


class Unreadable(ValueError):
    """The reply has no verdict that is certain; the message says why."""


def thinks(text: str) -> bool:
    """Whether the reply begins with thoughts."""
    return text.lstrip().startswith("<think>")


def without_thoughts(text: str) -> str:
    """The reply after its thoughts.

    Raises:
        Unreadable: it has no more than thoughts, or is empty.
    """
    found = _THOUGHTS.match(text)
    answer = (text[found.end() :] if found else text).strip()
    if answer.startswith("<think>"):
        raise Unreadable("the reply ends inside its thoughts")
    if not answer:
        raise Unreadable("the reply is empty")
    return answer


def read_json(text: str, rubric: Rubric) -> tuple[Verdict, ...]:
    """The verdicts of a reply that is one JSON object.

    Raises:
        Unreadable: it is something else, or a criterion has no verdict.
    """
    answer = without_thoughts(text)
    fence = _FENCE.fullmatch(answer)
    try:
        value: Any = json.loads(fence[1] if fence else answer, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, Unreadable) else "is not one JSON object"
        raise Unreadable(f"the reply {reason}: {_shown(answer)}") from None
    members = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    wanted = [criterion.name for criterion in rubric.criteria]
    if set(members) != set(wanted):
        raise Unreadable(
            f"the reply has the members {', '.join(members) or 'none'}, expected "
            f"{', '.join(wanted)}: {_shown(answer)}"
        )
    return tuple(_verdict(name, members[name]) for name in wanted)


def read_reason(text: str) -> str:
    """The reason, cut where it is long.

    Raises:
        Unreadable: it is empty.
    """
    return without_thoughts(text)[:_MOST_REASON]


def read_word(text: str, criterion: str, reason: str) -> Verdict:
    """The verdict of a reply that begins with yes or no.

    Raises:
        Unreadable: it begins with another word, or with both.
    """
    answer = without_thoughts(text)
    found = _WORD.match(answer)
    if found is None:
        raise Unreadable(f"the verdict on {criterion} is neither yes nor no: {_shown(answer)}")
    return Verdict(criterion=criterion, met=_YES[found[1].lower()], reason=reason)


def _verdict(name: str, value: Any) -> Verdict:
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    reason, said = given.get("reason"), given.get("verdict")
    word = said.strip().lower() if isinstance(said, str) else ""
    met = said if isinstance(said, bool) else _YES.get(word)
    if met is None or not isinstance(reason, str):
        raise Unreadable(f"the verdict on {name} is not a reason and yes or no: {_shown(value)}")
    return Verdict(criterion=name, met=met, reason=reason.strip()[:_MOST_REASON])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no member comes twice: of two verdicts, none is certain."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise Unreadable("has a member twice")
    return dict(pairs)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + " ...")
