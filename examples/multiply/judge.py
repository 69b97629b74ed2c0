"""Right when the response's last number is the product."""

import re

from preceptor_clients.sdk import Feedback


def judge(row, response):
    numbers = re.findall(r"\d+", response.replace(",", ""))
    if not numbers:
        return Feedback(0.0, "The answer has no number.")
    if int(numbers[-1]) == row["answer"]:
        return 1.0
    return Feedback(0.0, f"{numbers[-1]} is wrong; the right answer is {row['answer']}.")
