"""From a drawn text to the next token of the student's vocabulary.

A text API continues text, but the student's states are ids. A draw counts only if prefix text and
drawn text together, tokenised again, begin with the prefix's own ids. Otherwise it continues
another state, which the student would never reach. The token after the prefix's ids is the draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer

_NO_CHARACTER: Final = "\ufffd"


class Drawn(NamedTuple):
    """One continuation from the API."""

    text: str
    ended: bool
    """True where the API reports an end of the text, false where it was cut."""
    elsewhere: str | None = None
    """The field with the reply's text, if it is not the content; such a reply is not a draw."""


def prefix_text(tokenizer: StudentTokenizer, ids: Sequence[int]) -> str | None:
    """The text that is tokenised to exactly these ids; None where there is none.

    An API does not read a text as a control token in general, and might read a text that spells a
    control token as that token. Both are excluded.
    """
    if tokenizer.special_ids.intersection(ids):
        return None
    text = tokenizer.decode(ids)
    if tokenizer.spells_control(text):
        return None
    return text if tokenizer.encode(text) == list(ids) else None


def next_token(
    tokenizer: StudentTokenizer, prefix: str, prefix_ids: Sequence[int], drawn: Drawn
) -> int | None:
    """The token that `drawn` puts after the prefix; None where it cannot be determined.

    It cannot be determined where the text is in another field, where the prefix's ids change, where
    the text begins within a character or with the spelling of a control token, and where a cut text
    has only one token, which more text might have made longer.
    """
    if drawn.elsewhere is not None or drawn.text.startswith(_NO_CHARACTER):
        return None
    if tokenizer.begins_control(drawn.text):
        return None
    ids, t = tokenizer.encode(prefix + drawn.text), len(prefix_ids)
    if ids[:t] != list(prefix_ids):
        return None
    if len(ids) == t:
        return tokenizer.end_id if drawn.ended else None
    if len(ids) == t + 1 and not drawn.ended:
        return None
    return None if ids[t] in tokenizer.special_ids else ids[t]
