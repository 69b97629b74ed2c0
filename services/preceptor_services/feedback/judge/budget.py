"""What a judge may spend, and what it has spent, while its process runs."""

from __future__ import annotations

from dataclasses import dataclass

from preceptor_clients.contract.errors import ServiceFailed


class BudgetSpent(ServiceFailed):
    """A budget is spent; the message names it."""

    code, title = "budget-spent", "The budget of the service is spent"


@dataclass
class Budget:
    """Counts calls and tokens."""

    source: str
    """Name in messages."""
    max_calls: int | None = None
    max_tokens: int | None = None
    calls: int = 0
    tokens: int = 0

    def take_call(self) -> None:
        """Counts a call that is about to be made.

        Raises:
            BudgetSpent: it would exceed a budget.
        """
        if self.max_calls is not None and self.calls >= self.max_calls:
            raise self._spent("max_calls", f"{self.calls} calls")
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            raise self._spent("budget_tokens", f"{self.tokens} tokens")
        self.calls += 1

    def _spent(self, option: str, spent: str) -> BudgetSpent:
        limit = self.max_calls if option == "max_calls" else self.max_tokens
        return BudgetSpent(
            f"the budget {option} = {limit} of the source {self.source} is spent, with {spent}; "
            "raise it and start the source again"
        )
