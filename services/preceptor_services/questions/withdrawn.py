"""Feedback items that do not count any more: what callers get in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from preceptor_clients.contract.errors import Conflict, ProblemDetails
from preceptor_clients.contract.schemas import FeedbackItem
from preceptor_services.store.provenance.feedback import ItemRow


def items_that_count(rows: Iterable[ItemRow]) -> Iterator[FeedbackItem]:
    """The items as callers get them; a judgement that was retired is one that failed."""
    for row in rows:
        item = FeedbackItem.model_validate(row.document)
        if row.state == "standing":
            yield item
        elif item.score is not None or item.error is not None:
            error = f"retired: {row.state_reason}"
            yield item.model_copy(update={"score": None, "text": None, "error": error})


def problem_of(row: ItemRow, field: str) -> ProblemDetails:
    """Why no expert is asked with this item in view."""
    return Conflict(f"item {row.id!r} is {row.state}: {row.state_reason}", field=field).problem()
