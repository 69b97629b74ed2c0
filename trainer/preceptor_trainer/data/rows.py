"""Rows as problems: what the student is asked, and the whole row for its judges.

    make_rows("train.jsonl", read_rows("train.jsonl", folder), RowFormat())

A row has a `prompt`, a text for one user turn, or `messages`, a chat that ends with a user turn.
All its columns reach the judges. Its id is its own `id`, or a hash of its content.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, overload

from preceptor_trainer.data.reading import ReadRow

ROLES: Final = ("system", "user", "assistant")
_MAX_ID: Final = 200


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """How a row becomes a problem."""

    prompt: str | None = None
    """Text of the user turn with `{column}` for a column's value, as in `"{question}"`; the row's
    `prompt` or `messages` where absent."""
    system: str | None = None
    """A system turn for rows whose chat begins without one."""
    reference: str | None = None
    """Column with a right answer, for objectives that imitate it or show it to the teacher."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """What happens to a row whose id, or whole content, an earlier row has."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row, as a problem of a run."""

    id: str
    """Its own `id`, or a hash of its content."""
    messages: tuple[dict[str, str], ...]
    """The chat that the student continues."""
    payload: dict[str, Any]
    """All columns, for the judges."""
    where: str
    """File and line."""
    reference: str | None = None
    """A right answer, where the format names its column."""

    @property
    def prompt_text(self) -> str:
        """The chat as one text, to compare rows by."""
        return "\n".join(f"{m['role']}: {' '.join(m['content'].split())}" for m in self.messages)


@dataclass(frozen=True, kw_only=True)
class Rows(Sequence[Row]):
    """The rows of one file or data set, with what is recorded of them."""

    source: str
    """Where they were read."""
    sha256: str
    """Hash over the ids and contents of the rows, in their order."""
    num_rows: int
    """Number of rows."""
    rows: tuple[Row, ...] = field(repr=False)
    """The rows."""
    dropped: tuple[str, ...] = ()
    """What was left out, and why, in sentences."""

    @classmethod
    def of(cls, source: str, rows: Iterable[Row], dropped: tuple[str, ...] = ()) -> Rows:
        """These rows, with their hash."""
        kept = tuple(rows)
        digest = hashlib.sha256()
        for row in kept:
            digest.update(f"{row.id}\0{_canonical(row.payload)}\n".encode())
        return cls(
            source=source,
            sha256=digest.hexdigest(),
            num_rows=len(kept),
            rows=kept,
            dropped=dropped,
        )

    def without(self, dropped: Iterable[Row], why: str) -> Rows:
        """The same without these; `why` says so in a sentence."""
        ids = {row.id for row in dropped}
        kept = (row for row in self.rows if row.id not in ids)
        return Rows.of(self.source, kept, (*self.dropped, why))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self.rows[index]

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def make_rows(source: str, read: Sequence[ReadRow], form: RowFormat) -> Rows:
    """The problems of what was read.

    Raises:
        ValueError: a row is not a problem, or two have the same id; file and lines are named.
    """
    seen: dict[str, Row] = {}
    num_twice = 0
    for one in read:
        row = _row(one, form)
        if row.id not in seen:
            seen[row.id] = row
            continue
        num_twice += 1
        if form.duplicates == "refuse":
            same = f"the id {row.id!r}" if "id" in one.columns else "the same content"
            raise ValueError(
                f"{one.where}: has {same} as {seen[row.id].where}; remove one of them, or set "
                'data.duplicates = "drop"'
            )
    if not seen:
        raise ValueError(f"{source}: has no rows")
    why = f"{source}: rows dropped because they are there twice: {num_twice}"
    twice = (why,) if num_twice else ()
    return Rows.of(source, seen.values(), twice)


def _row(read: ReadRow, form: RowFormat) -> Row:
    columns = read.columns
    try:
        chat = _chat(columns, form)
        reference = None if form.reference is None else _reference(columns, form.reference)
        name = _id(columns)
    except ValueError as error:
        raise ValueError(f"{read.where}: {error}") from None
    return Row(id=name, messages=chat, payload=columns, where=read.where, reference=reference)


def _id(columns: dict[str, Any]) -> str:
    own = columns.get("id")
    if own is None:
        return "row-" + hashlib.sha256(_canonical(columns).encode()).hexdigest()[:16]
    if isinstance(own, bool) or not isinstance(own, (str, int)):
        raise ValueError(f"id: is a {type(own).__name__}, not a text or a whole number")
    name = str(own)
    if not 0 < len(name) <= _MAX_ID:
        raise ValueError(f"id: has {len(name)} characters, not 1 to {_MAX_ID}")
    return name


def _chat(columns: dict[str, Any], form: RowFormat) -> tuple[dict[str, str], ...]:
    if form.prompt is not None:
        chat = [{"role": "user", "content": _filled(form.prompt, columns)}]
    elif "messages" in columns:
        chat = _messages(columns["messages"])
    elif isinstance(columns.get("prompt"), str):
        chat = [{"role": "user", "content": cast("str", columns["prompt"])}]
    elif isinstance(columns.get("prompt"), list):
        chat = _messages(columns["prompt"])
    else:
        raise ValueError(
            f"has neither `prompt` nor `messages`, but {', '.join(sorted(columns)) or 'nothing'}; "
            'name its columns: data.prompt = "{column}"'
        )
    if not chat[-1]["content"].strip():
        raise ValueError("the last user turn is empty")
    if form.system is not None and chat[0]["role"] != "system":
        chat.insert(0, {"role": "system", "content": form.system})
    return tuple(chat)


def _filled(template: str, columns: dict[str, Any]) -> str:
    parts: list[str] = []
    for text, name, _, _ in string.Formatter().parse(template):
        parts.append(text)
        if name is not None:
            if name not in columns:
                raise ValueError(
                    f"has no column {name!r}, which data.prompt names; it has "
                    f"{', '.join(sorted(columns))}"
                )
            parts.append(str(columns[name]))
    return "".join(parts)


def _messages(value: Any) -> list[dict[str, str]]:
    turns = cast("list[Any]", value) if isinstance(value, list) else []
    if not turns:
        raise ValueError("messages: is not a list of turns")
    chat: list[dict[str, str]] = []
    for i, turn in enumerate(turns):
        role, content = _turn(turn, f"messages[{i}]")
        chat.append({"role": role, "content": content})
    if chat[-1]["role"] != "user":
        raise ValueError(
            f"messages: ends with a turn of {chat[-1]['role']!r}, but the student answers a user "
            "turn; put a known answer into a column of its own"
        )
    return chat


def _turn(turn: Any, where: str) -> tuple[str, str]:
    fields = cast("dict[str, Any]", turn) if isinstance(turn, dict) else {}
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES:
        raise ValueError(f"{where}.role: is {role!r}, not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"{where}.content: is a {type(content).__name__}, not a text")
    return role, content


def _reference(columns: dict[str, Any], column: str) -> str:
    value = columns.get(column)
    if value is None or isinstance(value, (list, dict)) or not str(value).strip():
        raise ValueError(f"{column}: is no reference answer: {value!r}")
    return str(value)


def _canonical(columns: dict[str, Any]) -> str:
    return json.dumps(columns, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
