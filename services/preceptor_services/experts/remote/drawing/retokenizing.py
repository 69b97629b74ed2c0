"""From a drawn text to the next token of the student's vocabulary.

A text API continues text, and the student's states are ids. A draw counts only where prefix text
and drawn text together, tokenised again, begin with the prefix's own ids; else it continues another
state, one that the student would never be in. The token after them is the draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer

_NO_CHARACTER: Final = "\ufffd"


class Drawn(NamedTuple):
    """One continuation, as the API gave it."""

    text: str
    ended: bool
    """True where the API says that the text ends here, false where it was cut."""
    elsewhere: str | None = None
    """Where the reply's text stands, if that is another field than the content: it is no draw."""


def prefix_text(tokenizer: StudentTokenizer, ids: Sequence[int]) -> str | None:
    """The text that stands for these ids and no others; None where there is none.

    Control tokens have no text that an API would read as them, and a text that spells one would be
    read as one.
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
    """The token that `drawn` puts after the prefix; None where it does not tell.

    It does not tell where the text stands elsewhere, where the prefix's ids change, where the text
    begins within a character or as a control token is spelled, and where a text that was cut holds
    one token only, which more text might have made a longer one.
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
