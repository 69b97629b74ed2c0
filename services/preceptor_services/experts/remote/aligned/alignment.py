"""Aligns a teacher's tokens with the student's, by the bytes of the text.

A state of the student is a text, and the teacher's state is its own tokenisation of the same text.
Where a student token and a teacher token end at the same byte, both are in the same state; one
request about a longer text serves all such positions. At other positions the teacher's tokens of
the text so far are not a prefix of its tokens of the longer text, so each needs a separate request.
So the answer at a position depends only on the text before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preceptor_services.experts.remote.student_tokenizer import StudentTokenizer


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One sequence of the teacher's tokens, and the rows of the query that it answers."""

    ids: tuple[int, ...]
    rows: dict[int, int]
    """Number of the teacher's tokens before each row of the query, by row."""


def readings(
    student: StudentTokenizer,
    teacher: StudentTokenizer,
    response_ids: Sequence[int],
    positions: Sequence[int],
) -> list[Reading]:
    """The fewest sequences that serve every row with a text; the one that serves most comes first.

    Rows after a special token, or within a character, have no text and are not served.

    Args:
        student: The student's tokenizer.
        teacher: The teacher's tokenizer.
        response_ids: `[T]` the response in the student's tokens.
        positions: `[P]` the queried positions, ascending.
    """
    states = dict[int, tuple[int, ...]]()
    for row, t in enumerate(positions):
        text = text_of(student, response_ids[:t])
        if text is not None:
            states[row] = tuple(teacher.encode(text))
    found = list[Reading]()
    for row, ids in sorted(states.items(), key=lambda state: -len(state[1])):
        serving = next((r for r in found if r.ids[: len(ids)] == ids), None)
        if serving is None:
            serving = Reading(ids=ids, rows={})
            found.append(serving)
        serving.rows[row] = len(ids)
    return sorted(found, key=lambda reading: -len(reading.rows))


def text_of(student: StudentTokenizer, ids: Sequence[int]) -> str | None:
    """The text of these ids; None where they are not text."""
    if student.special_ids.intersection(ids):
        return None
    text = student.decode(ids)
    return None if "\ufffd" in text else text


class Pieces:
    """Maps a token of the teacher to the student's token with which its bytes begin."""

    def __init__(self, student: StudentTokenizer, teacher: StudentTokenizer) -> None:
        self._student = student
        self._teacher = teacher
        self.anchor = teacher.encode("a")[-1]
        """Some tokenizers drop a space at the start of a text; after a letter it stays."""
        self._anchor_text = teacher.decode([self.anchor])
        self._known = dict[int, int | None]()

    def student_id(self, teacher_id: int) -> int | None:
        """The student's token; None for part of a character or a special token that is not an end.

        A piece that is exactly one student token counts as that token, although with more text it
        might have become a longer token.
        """
        if teacher_id not in self._known:
            self._known[teacher_id] = self._find(teacher_id)
        return self._known[teacher_id]

    def _find(self, teacher_id: int) -> int | None:
        if teacher_id in self._teacher.end_ids:
            return self._student.end_of(self._teacher, teacher_id)
        if teacher_id in self._teacher.special_ids or teacher_id < 0:
            return None
        piece = self._teacher.decode([self.anchor, teacher_id]).removeprefix(self._anchor_text)
        if not piece or "\ufffd" in piece:
            return None
        ids = self._student.encode(piece)
        if self._student.special_ids.intersection(ids) or self._student.decode(ids) != piece:
            return None
        return ids[0]
