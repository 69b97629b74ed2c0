"""Says how good a response is: a number, True or False, or Feedback(score, text)."""

import re
from typing import Any

from preceptor_clients.sdk import Feedback


def judge(row: dict[str, Any], response: str) -> Feedback:
    """Compares the last number of the response with the row's answer."""
    numbers = re.findall(r"-?\d+", response)
    if numbers and int(numbers[-1]) == row["answer"]:
        return Feedback(1.0)
    return Feedback(0.0, f"The answer is {row['answer']}.")
