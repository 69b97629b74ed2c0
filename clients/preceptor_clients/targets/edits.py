"""From a person's edit to token targets: pure, numpy only.

The student wrote `base_ids`; a person changed the text. The edit becomes two labelled sequences:

1. **The base**, the student's own states. Where the correction departs, the corrected token is the
   label. The student's tokens after it get no label until the two texts agree again; then the next
   departure has a label. Tokens that the person left unchanged may be labels too (`accepted`); by
   default they are not, since an unchanged token is not evidence of approval.
2. **The take-over**, the corrected text as a sequence of its own, on which the person carries on
   from the state that the student had reached: labels on what the person wrote. It is forced, so it
   trains by the local term only.

DAgger (arXiv 1011.0686) asks an expert about the states that the learner visits. An edit gives the
answer for some of these states and none for the rest.

The base is never tokenised again. The correction is tokenised as a whole, and where the person
changed nothing the base's own tokens take the place of the new ones, from one place to another at
which both have a token boundary: a common prefix that ends inside a token, or inside a character,
backs up to the last such place. So `def` corrected to `define` departs at the first
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
from typing import Final, NamedTuple, Protocol, TypeVar

import numpy as np

from preceptor_clients.contract.corrections import EditRules
from preceptor_clients.contract.schemas import PrefixAnswer, PrefixQuery
from preceptor_clients.sdk.answers import Distributions, build_answer
from preceptor_clients.sdk.plain_text import Placed

COMPILER_VERSION: Final = "edits-2"
T = TypeVar("T")
_EXACT_TOKENS: Final = 4_000
"""Longer changed stretches are aligned by rare tokens only: exact alignment is quadratic."""


class Spelling(Protocol):
    """How a vocabulary spells texts; see `edit_spelling.py` for tokenizers of the usual kind."""

    @property
    def eos_id(self) -> int: ...

    @property
    def end_ids(self) -> frozenset[int]: ...

    def placed(self, text: str) -> list[Placed]:
        """Ids of a text and their places in it, special tokens never among them."""
        ...

    def normal(self, text: str) -> str:
        """What the vocabulary's tokenizer reads in the place of `text`."""
        ...

    def piece(self, token: int) -> bytes:
        """What one token adds to the text; nothing for a special token."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelRules:
    """How a compiled edit becomes an expert's answer."""

    smoothing: float = 0.0
    """Probability of all other tokens together at a label; 0 makes a one-hot label."""
    accepted: bool = False
    """Whether unchanged tokens are labels too."""

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
        """`[T]` True for base tokens that are in the correction too."""
        shared = np.ones(len(self.base_ids), np.bool_)
        for span in self.spans:
            shared[span.start : span.stop] = False
        return shared

    def written_S(self) -> np.ndarray:
        """`[S]` True for take-over tokens that the person chose against what the student wrote.

        The shared token right after a change is one of them: the person chose to end the change
        there. After a deletion it is the only one.
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
        text: The whole corrected response.
        rules: The round's: when texts have run together again.

    Returns:
        The edit; without spans where the text is the student's own.
    """
    base = [int(token) for token in base_ids]
    # The end token has no text. It is removed here and appended again where the correction ends by
    # choice.
    ended = bool(base) and base[-1] in spelling.end_ids
    body = base[:-1] if ended else base
    written, settles_end = _respelled(spelling, body, text)
    # A response that was cut off by its length gets no end token unless the person changed its end:
    # neither student nor person chose to end it there.
    end = base[-1:] if ended else [spelling.eos_id] if settles_end else []
    takeover = [*written, *end]
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
    """Labels as an expert's answer: a `point` entry at a label, no opinion elsewhere.

    Args:
        query: The query; only its positions are answered.
        labels_T: `[T]` the wanted token at each response position, -1 without a label.
        rules: The probability of other tokens.
        expert: Name of the people's expert.
        expert_version: Its version.
    """
    labels_P = labels_T[query.position_ids()]
    # The smoothing is the tail of the answer. Without it, cross-entropy would push every other id
    # towards probability 0.
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
        # The grid of log-probs has steps of 4.9e-4 and would round a small smoothing to 0.
        exact=rules.smoothing > 0,
    )


# ---------------------------------------------------------------- spelling the correction


def _respelled(spelling: Spelling, body: list[int], text: str) -> tuple[list[int], bool]:
    """Ids of `text` that keep the base's tokens where nothing changed; and whether its end changed.

    The tokenizer may compose characters, or split a text into other tokens than the student chose,
    so the student's own tokens are kept wherever the person changed nothing.
    """
    base, fresh = _base_chunks(spelling, body), _fresh_chunks(spelling, text)
    if spelling.normal(_text(base)) == spelling.normal(text):
        return body, False
    a = [spelling.normal(chunk.text) for chunk in base]
    b = [spelling.normal(chunk.text) for chunk in fresh]
    ids: list[int] = []
    i = j = kept = 0
    for block in _blocks(a, b, 1):
        found, kept = _joined(spelling, base[i : block.i], fresh[j : block.j])
        ids += found
        i, j = block.i + block.n, block.j + block.n
        ids += _ids(base[block.i : i])
        kept += block.n
    return ids, not kept


class _Chunk(NamedTuple):
    """The fewest tokens that form whole characters, and their text; empty for special tokens."""

    ids: tuple[int, ...]
    text: str


def _joined(
    spelling: Spelling, base: Sequence[_Chunk], fresh: Sequence[_Chunk]
) -> tuple[list[int], int]:
    """Ids of a stretch without a shared chunk, and how many chunks of the base are at its end.

    A change may begin or end within a chunk, and the two texts may have different chunk boundaries.
    """
    old, new = _text(base), _text(fresh)
    if spelling.normal(old) == spelling.normal(new):
        return _ids(base), len(base)
    base_cuts, places = _cuts(base), {offset: place for place, offset in _cuts(fresh)}
    prefix = _shared(old, new)
    head, head_offset = next(
        (place, offset)
        # The last place at which both have a boundary; (0, 0) always is one.
        for place, offset in reversed(base_cuts)
        if offset <= prefix and offset in places
    )
    # Head and tail must not overlap, or a deletion in `a a a` would count tokens twice.
    room = min(len(old), len(new)) - head_offset
    suffix = min(room, _shared(old[::-1], new[::-1]))
    shift = len(new) - len(old)
    tail, tail_offset = next(
        (place, offset)
        for place, offset in base_cuts
        if place >= head and offset >= len(old) - suffix and offset + shift in places
    )
    middle = fresh[places[head_offset] : places[tail_offset + shift]]
    return [*_ids(base[:head]), *_ids(middle), *_ids(base[tail:])], len(base) - tail


def _base_chunks(spelling: Spelling, ids: Sequence[int]) -> list[_Chunk]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    chunks: list[_Chunk] = []
    some: tuple[int, ...] = ()
    text = ""
    for token in ids:
        some, text = (*some, token), text + decoder.decode(spelling.piece(token))
        # A boundary inside a character is not used: its bytes would be counted on both sides.
        if not decoder.getstate()[0]:
            chunks.append(_Chunk(some, text))
            some, text = (), ""
    # A response that was cut off by its length may end inside a character; its end still counts as
    # a boundary.
    text += decoder.decode(b"", final=True)
    return [*chunks, _Chunk(some, text)] if some else chunks


def _fresh_chunks(spelling: Spelling, text: str) -> list[_Chunk]:
    """Chunks that cover every character of `text`, also those without ids in the tokenizer."""
    begun: list[tuple[int, list[int]]] = []
    reached = 0
    for token, start, stop in spelling.placed(text):
        if not begun or start >= reached:
            begun.append((start if begun else 0, []))
        begun[-1][1].append(token)
        reached = max(reached, stop)
    if not begun:
        return [_Chunk((), text)] if text else []
    ends = [*(start for start, _ in begun[1:]), len(text)]
    return [_Chunk(tuple(i), text[at:end]) for (at, i), end in zip(begun, ends, strict=True)]


def _cuts(chunks: Sequence[_Chunk]) -> list[tuple[int, int]]:
    """Every boundary as (chunks, characters)."""
    cuts = [(0, 0)]
    for place, chunk in enumerate(chunks, 1):
        cuts.append((place, cuts[-1][1] + len(chunk.text)))
    return cuts


def _text(chunks: Sequence[_Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def _ids(chunks: Sequence[_Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.ids]


def _shared(a: str, b: str) -> int:
    """Length of the common prefix of the two, in characters."""
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


def _blocks(base: Sequence[T], takeover: Sequence[T], rejoin_tokens: int) -> list[_Block]:
    """Shared stretches in order: the common head, the common tail, and long ones in between."""
    shortest = min(len(base), len(takeover))
    # Common head and tail first: an aligner that looks for the longest stretch may align them
    # elsewhere, and its time is quadratic in its input.
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
    """Moves each departure to the first token that differs.

    An aligner may report either `a` of `a a` as deleted. The label must be at the first token that
    differs; elsewhere it would be the token that the student already wrote.
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
        # An inner block that the earlier one covers is dropped; the last one is kept even when
        # empty, because it marks both ends.
        if block.n > 0 or block is blocks[-1]:
            settled.append(block)
    end = settled[-1]
    if (end.i + end.n, end.j + end.n) != (len(base), len(takeover)):
        settled.append(_Block(len(base), len(takeover), 0))
    return settled


def _equal_at(base: list[int], takeover: list[int], i: int, j: int) -> bool:
    return i < len(base) and j < len(takeover) and base[i] == takeover[j]
