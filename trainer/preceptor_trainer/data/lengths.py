"""Prompts that are too long: dropped and counted, never cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from preceptor_trainer.data.rows import Rows


def keep_short(
    rows: Rows, num_tokens: Callable[[Sequence[dict[str, str]]], int], limit: int
) -> Rows:
    """The rows whose prompt has at most `limit` tokens.

    Args:
        rows: Any rows.
        num_tokens: Tokens of a chat as the student reads it.
        limit: Most tokens.

    Raises:
        ValueError: no row is left.
    """
    lengths = {row.id: num_tokens(row.messages) for row in rows}
    long = [row for row in rows if lengths[row.id] > limit]
    if not long:
        return rows
    longest = max(lengths.values())
    if len(long) == len(rows):
        raise ValueError(
            f"{rows.source}: the prompts of all {len(rows)} rows have more than {limit} tokens, "
            f"from {min(lengths.values())} to {longest}; raise data.max_prompt"
        )
    return rows.without(
        long,
        f"{rows.source}: {len(long)} of {len(rows)} rows are dropped: their prompts have more than "
        f"{limit} tokens, up to {longest}, such as {long[0].where}",
    )
