"""From a person's edit to token targets: pure, numpy only.

The student wrote `base_ids`; a person changed the text. The edit becomes two labelled sequences:

1. **The base**, the student's own states. Where the correction departs, the corrected token is the
   label. The student's tokens after it are off the person's path and get none, until the two
   texts have run together again; then the next departure has a label again. Tokens that the person
   left as they were may be labels too (`accepted`); by default they are not, since silence is no
   evidence.
2. **The take-over**, the corrected text as a sequence of its own, on which the person carries on
   from the state that the student had reached: labels on what the person wrote. It is forced, so it
   trains by the local term only.

DAgger (arXiv 1011.0686) asks an expert about the states that the learner visits; an edit answers
for some of them, and says nothing about the rest.

The base is never tokenised again. The correction is tokenised as a whole, and joined to the base at
places where both have a token boundary: a common prefix that ends inside a token, or inside a
character, backs up to the last such place. So `def` corrected to `define` departs at the first
token where `define` is one, although the text departs after `def`.

    base          print ( x   )   <end>         labels: (at `x`) -> `y`
    corrected     print ( y + 1 ) <end>         span: base[2:3] became take-over[2:5]

Left out: labels inside a stretch where the person's text and the student's happen to share fewer
than `rejoin_tokens` tokens (they are still off the path), and moves (a moved block counts as new).

Dimensions: T tokens of the base, S of the take-over, P positions that were asked.
"""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np

from preceptor_clients.contract.corrections import EditRules
from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery
from preceptor_clients.sdk.answers import Distributions, build_answer

COMPILER_VERSION: Final = "edits-1"
_EXACT_TOKENS: Final = 4_000
"""Longer changed stretches are aligned by rare tokens only: the exact way is quadratic."""


class Spelling(Protocol):
    """How a vocabulary spells texts; see `edit_spelling.py` for tokenizers of the usual kind."""

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens never among them."""
        ...

    def piece(self, token: int) -> bytes:
        """What one token adds to the text; nothing for a special token."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelRules:
    """What an expert says of a compiled edit."""

    smoothing: float = 0.0
    """Probability left to all other tokens at a label; 0 is a point."""
    accepted: bool = False
    """Whether tokens that were left as they were are labels too."""

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing: {self.smoothing} is not in [0, 1)")


class EditSpan(NamedTuple):
    """`base[start:stop]` became `takeover[first:last]`; either may be empty, not both."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True, eq=False)
class CompiledEdit:
    """One edit of one response."""

    base_ids: np.ndarray
    """`[T]` what the student wrote."""
    takeover_ids: np.ndarray
    """`[S]` the corrected response, with its end token where the person settled how it ends."""
    spans: tuple[EditSpan, ...]
    """What was changed, from left to right; everything between is shared."""

    def departures(self) -> dict[int, int]:
        """Base position to corrected token: the labels that every edit has."""
        return {
            span.start: int(self.takeover_ids[span.first])
            for span in self.spans
            if span.start < len(self.base_ids) and span.first < len(self.takeover_ids)
        }

    def shared_T(self) -> np.ndarray:
        """`[T]` True for base tokens that stand in the correction too."""
        shared = np.ones(len(self.base_ids), np.bool_)
        for span in self.spans:
            shared[span.start : span.stop] = False
        return shared

    def written_S(self) -> np.ndarray:
        """`[S]` True for take-over tokens that the person chose against what the student wrote.

        The shared token with which a change ends is one of them: that it comes now, and nothing
        more of the change, is the person's choice. After a deletion it is the only one.
        """
        written = np.zeros(len(self.takeover_ids), np.bool_)
        for span in self.spans:
            written[span.first : span.last + 1] = True
        return written

    def base_labels(self, *, accepted: bool) -> np.ndarray:
        """`[T]` int32: the token that the person wants at each position, -1 without a label."""
        labels = np.where(self.shared_T() & accepted, self.base_ids, -1).astype(np.int32)
        for position, token in self.departures().items():
            labels[position] = token
        return labels

    def takeover_labels(self, *, accepted: bool) -> np.ndarray:
        """`[S]` the same for the take-over sequence; its labels are its own tokens."""
        labelled = self.written_S() | accepted
        return np.where(labelled, self.takeover_ids, -1).astype(np.int32)

    def forced_prefix(self, span: int = 0) -> np.ndarray:
        """The correction up to and with its `span`-th change, to roll out from."""
        if not self.spans:
            return self.takeover_ids[:0]
        return self.takeover_ids[: self.spans[span].last]


def compile_edit(
    spelling: Spelling, base_ids: np.ndarray, text: str, rules: EditRules
) -> CompiledEdit:
    """Aligns a corrected text with what the student wrote.

    Args:
        spelling: Of the student's vocabulary.
        base_ids: `[T]` the student's response, its end token included where it has one.
        text: The whole corrected response, as the person left it.
        rules: The round's: when texts have run together again.

    Returns:
        The edit; without spans where the text is the student's own.
    """
    base = [int(token) for token in base_ids]
    # The end token has no text: it is taken off, and put back where the correction ends by choice.
    ended = bool(base) and base[-1] == spelling.eos_id
    body = base[:-1] if ended else base
    written, settles_end = _respelled(spelling, body, text)
    # A response that was cut off by its length gets no end token unless the person changed its end:
    # that it ends there was nobody's choice.
    takeover = [*written, spelling.eos_id] if ended or settles_end else written
    return CompiledEdit(
        base_ids=np.asarray(base, np.int32),
        takeover_ids=np.asarray(takeover, np.int32),
        spans=tuple(_spans(base, takeover, rules.rejoin_tokens)),
    )


def spelled(spelling: Spelling, ids: Sequence[int] | np.ndarray) -> str:
    """The text of these ids, special tokens left out."""
    return b"".join(spelling.piece(int(i)) for i in ids).decode("utf-8", "replace")


def edit_answer(
    query: PrefixQuery,
    labels_T: np.ndarray,
    rules: LabelRules,
    *,
    expert: str,
    expert_version: str,
) -> PrefixAnswer:
    """Labels as an expert's answer: a point where there is one, no opinion elsewhere.

    Args:
        query: What was asked; only its positions are answered.
        labels_T: `[T]` the wanted token at each response position, -1 without a label.
        rules: How much probability is left to other tokens.
        expert: Name of the people's expert.
        expert_version: Its version.
    """
    labels_P = labels_T[query.position_ids()]
    # The rest is the tail of the answer: without it, cross-entropy would pull every other id to 0.
    logprob = float(np.log1p(-rules.smoothing))
    return build_answer(
        query,
        Distributions(
            ids_PK=labels_P[:, None],
            logprobs_PK=np.full((len(labels_P), 1), logprob, np.float32),
            own_logprobs_P=None,
        ),
        expert=expert,
        expert_version=expert_version,
        kind="point",
        mask_P=labels_P >= 0,
        # The grid of log-probs has steps of 4.9e-4: it would round a small smoothing to none.
        exact=rules.smoothing > 0,
    )


# ---------------------------------------------------------------- spelling the correction


def _respelled(spelling: Spelling, body: list[int], text: str) -> tuple[list[int], bool]:
    """Ids of `text` that keep the base's own tokens at both ends; whether its end was touched."""
    fresh = spelling.encode(text)
    base_text, base_cuts = _cuts(spelling, body)
    text, fresh_cuts = _cuts(spelling, fresh)  # a tokenizer may normalise what it is given
    # The same text may have other ids when it is tokenised anew; the student wrote these.
    if base_text == text:
        return body, False
    starts = {offset: place for place, offset in fresh_cuts}
    prefix = _shared(base_text, text)
    head, head_offset = next(
        (place, offset)
        # The last place that both have a boundary at; (0, 0) is always one.
        for place, offset in reversed(base_cuts)
        if offset <= prefix and offset in starts
    )
    # Head and tail must not overlap, or a deletion in `a a a` would count tokens twice.
    room = min(len(base_text), len(text)) - head_offset
    suffix = min(room, _shared(base_text[::-1], text[::-1]))
    shift = len(text) - len(base_text)
    tail, tail_offset = next(
        (place, offset)
        for place, offset in base_cuts
        if place >= head and offset >= len(base_text) - suffix and offset + shift in starts
    )
    middle = fresh[starts[head_offset] : starts[tail_offset + shift]]
    return body[:head] + middle + body[tail:], tail == len(body)


def _cuts(spelling: Spelling, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text, and every token boundary that is a character's too, as (tokens, characters)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, length = [""], 0
    cuts: list[tuple[int, int]] = [(0, 0)]
    for place, token in enumerate(ids, 1):
        text.append(decoder.decode(spelling.piece(token)))
        length += len(text[-1])
        # A cut inside a character is no place of the text: bytes of it would be counted on both
        # sides.
        if not decoder.getstate()[0]:
            cuts.append((place, length))
    text.append(decoder.decode(b"", final=True))
    whole = "".join(text)
    # A response may end inside a character, cut off by its length; its end is a place all the same.
    if cuts[-1][0] != len(ids):
        cuts.append((len(ids), len(whole)))
    return whole, cuts


def _shared(a: str, b: str) -> int:
    """How many characters the two begin with alike."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


# ---------------------------------------------------------------- aligning ids


class _Block(NamedTuple):
    """`base[i : i + n]` equals `takeover[j : j + n]`."""

    i: int
    j: int
    n: int


def _spans(base: list[int], takeover: list[int], rejoin_tokens: int) -> list[EditSpan]:
    blocks = _settled(base, takeover, _blocks(base, takeover, rejoin_tokens))
    spans: list[EditSpan] = []
    i = j = 0
    for block in blocks:
        if block.i > i or block.j > j:
            spans.append(EditSpan(i, block.i, j, block.j))
        i, j = block.i + block.n, block.j + block.n
    return spans


def _blocks(base: list[int], takeover: list[int], rejoin_tokens: int) -> list[_Block]:
    """Shared stretches in order: the common head, the common tail, and long ones in between."""
    shortest = min(len(base), len(takeover))
    # The common ends first and by hand: an aligner that looks for the longest stretch may put them
    # elsewhere, and is quadratic in what it is given.
    head = next((k for k in range(shortest) if base[k] != takeover[k]), shortest)
    room = shortest - head
    tail = next((k for k in range(room) if base[-1 - k] != takeover[-1 - k]), room)
    a, b = base[head : len(base) - tail], takeover[head : len(takeover) - tail]
    exact = max(len(a), len(b)) <= _EXACT_TOKENS
    # autojunk takes frequent tokens out of the search; only a long stretch needs that.
    found = difflib.SequenceMatcher(None, a, b, autojunk=not exact).get_matching_blocks()
    inner = [_Block(m.a + head, m.b + head, m.size) for m in found if m.size >= rejoin_tokens]
    return [
        _Block(0, 0, head),
        *inner,
        _Block(len(base) - tail, len(takeover) - tail, tail),
    ]


def _settled(base: list[int], takeover: list[int], blocks: list[_Block]) -> list[_Block]:
    """Pushes each departure to the first token that really differs.

    An aligner may call either `a` of `a a` deleted. The label belongs where the texts part, or the
    student would be told to write there what it has written.
    """
    settled = [blocks[0]]
    for block in blocks[1:]:
        last = settled[-1]
        i, j, n = last.i + last.n, last.j + last.n, last.n
        while (i < block.i or j < block.j) and _equal_at(base, takeover, i, j):
            i, j, n = i + 1, j + 1, n + 1
            over = max(i - block.i, j - block.j, 0)
            if over:
                block = _Block(block.i + over, block.j + over, block.n - over)
                if block.n < 0:
                    break
        settled[-1] = last._replace(n=n)
        # An inner stretch that the earlier one has used up is gone; the last one stays though
        # empty, because it marks both ends.
        if block.n > 0 or block is blocks[-1]:
            settled.append(block)
    end = settled[-1]
    if (end.i + end.n, end.j + end.n) != (len(base), len(takeover)):
        settled.append(_Block(len(base), len(takeover), 0))
    return settled


def _equal_at(base: list[int], takeover: list[int], i: int, j: int) -> bool:
    return i < len(base) and j < len(takeover) and base[i] == takeover[j]
