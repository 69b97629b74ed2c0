"""Prompts that are too long: dropped and counted, never cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preceptor_trainer.data.rows import Row, Rows


@dataclass(frozen=True, kw_only=True)
class TooLong:
    """What was dropped of some rows."""

    source: str
    limit: int
    rows: tuple[Row, ...]
    longest: int
    """Tokens of the longest prompt."""
    total: int
    """Rows before."""

    def __str__(self) -> str:
        example = self.rows[0].where
        return (
            f"{self.source}: {len(self.rows)} of {self.total} rows are dropped: their prompts have "
            f"more than {self.limit} tokens, up to {self.longest}, such as {example}"
        )


def keep_short(
    rows: Rows, num_tokens: Callable[[Sequence[dict[str, str]]], int], limit: int
) -> tuple[Rows, TooLong | None]:
    """The rows whose prompt has at most `limit` tokens, and what was dropped.

    Args:
        rows: Any rows.
        num_tokens: Tokens of a chat as the student reads it.
        limit: Most tokens.

    Raises:
        ValueError: no row is left.
    """
    lengths = {row.id: num_tokens(row.messages) for row in rows}
    long = tuple(row for row in rows if lengths[row.id] > limit)
    if not long:
        return rows, None
    longest = max(lengths.values())
    if len(long) == len(rows):
        raise ValueError(
            f"{rows.source}: the prompts of all {len(rows)} rows have more than {limit} tokens, "
            f"from {min(lengths.values())} to {longest}; raise data.max_prompt"
        )
    dropped = TooLong(source=rows.source, limit=limit, rows=long, longest=longest, total=len(rows))
    return rows.without(long), dropped
