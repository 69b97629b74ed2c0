"""Writes the problems: small Python functions and one-line programs, in LiveCodeBench's format.

    python examples/code/make_data.py

Each problem has two public cases, which its text shows, and six private ones, packed as the data
set packs them. Held-out problems are others than those that are trained on.
"""

from __future__ import annotations

import base64
import json
import pickle
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUM_PUBLIC, NUM_PRIVATE = 2, 6
HELD_OUT_SHARE = 0.3


@dataclass(frozen=True)
class Problem:
    """What is asked, a right program, and how to draw its arguments."""

    name: str
    asked: str
    solution: str
    draw: Callable[[random.Random], list[Any]]
    reads: bool = False
    """Whether it reads a line and prints, or is a function."""


def number(rng: random.Random) -> list[Any]:
    return [rng.randint(-20, 20)]


def two_numbers(rng: random.Random) -> list[Any]:
    return [rng.randint(-20, 20), rng.randint(1, 20)]


def numbers(rng: random.Random) -> list[Any]:
    return [[rng.randint(-9, 20) for _ in range(rng.randint(1, 7))]]


def word(rng: random.Random) -> list[Any]:
    return ["".join(rng.choice("abcdeiou") for _ in range(rng.randint(1, 9)))]


Table = dict[str, tuple[str, str]]
"""What functions return, in words and as an expression, by their names."""

OF_NUMBER: Table = {
    **{f"add_{k}": (f"the number n plus {k}", f"n + {k}") for k in (2, 3, 5, 7, 10)},
    **{f"minus_{k}": (f"the number n minus {k}", f"n - {k}") for k in (1, 4, 6, 8)},
    **{f"times_{k}": (f"the number n times {k}", f"n * {k}") for k in (2, 3, 4, 6, 9)},
    **{f"mod_{k}": (f"the remainder of n divided by {k}", f"n % {k}") for k in (3, 4, 5, 7)},
    **{f"multiple_of_{k}": (f"True if n is a multiple of {k}, else False", f"n % {k} == 0")
       for k in (3, 4, 5)},
    **{f"above_{k}": (f"True if n is greater than {k}, else False", f"n > {k}")
       for k in (2, 5, 10)},
    **{f"at_most_{k}": (f"n, but at most {k}", f"min(n, {k})") for k in (0, 5, 9)},
    **{f"times_{k}_plus_{j}": (f"{k} times n plus {j}", f"{k} * n + {j}")
       for k, j in ((2, 1), (3, 2), (5, 4), (10, 7))},
    "square": ("the square of the number n", "n * n"),
    "cube": ("the cube of the number n", "n ** 3"),
    "negative": ("the number n with the other sign", "-n"),
    "absolute": ("the absolute value of the number n", "abs(n)"),
    "is_even": ("True if the number n is even, else False", "n % 2 == 0"),
    "is_positive": ("True if the number n is greater than 0, else False", "n > 0"),
    "last_digit": ("the last digit of the absolute value of n", "abs(n) % 10"),
    "digits": ("how many digits the absolute value of n has", "len(str(abs(n)))"),
}  # fmt: skip
OF_TWO: Table = {
    "total": ("the sum of a and b", "a + b"),
    "difference": ("a minus b", "a - b"),
    "product": ("the product of a and b", "a * b"),
    "larger": ("the larger of a and b", "max(a, b)"),
    "smaller": ("the smaller of a and b", "min(a, b)"),
    "remainder": ("the remainder of a divided by b", "a % b"),
    "quotient": ("a divided by b, rounded down", "a // b"),
    "equal": ("True if a and b are equal, else False", "a == b"),
    "less": ("True if a is less than b, else False", "a < b"),
    "divides": ("True if a is a multiple of b, else False", "a % b == 0"),
    "distance": ("the absolute value of a minus b", "abs(a - b)"),
    "sum_of_squares": ("the sum of the squares of a and b", "a * a + b * b"),
    "double_sum": ("two times the sum of a and b", "2 * (a + b)"),
    "pair": ("a list of a and b", "[a, b]"),
    "ordered_pair": ("a list of a and b, the smaller one first", "sorted([a, b])"),
    "both_positive": ("True if a and b are both greater than 0, else False",
                      "a > 0 and b > 0"),
}  # fmt: skip
OF_LIST: Table = {
    "list_sum": ("the sum of the list x", "sum(x)"),
    "list_length": ("the length of the list x", "len(x)"),
    "largest": ("the largest number of the list x", "max(x)"),
    "smallest": ("the smallest number of the list x", "min(x)"),
    "first": ("the first number of the list x", "x[0]"),
    "last": ("the last number of the list x", "x[-1]"),
    "sorted_list": ("the list x sorted from small to large", "sorted(x)"),
    "sorted_down": ("the list x sorted from large to small", "sorted(x, reverse=True)"),
    "reversed_list": ("the list x in reverse order", "x[::-1]"),
    "evens": ("the even numbers of the list x, in order", "[n for n in x if n % 2 == 0]"),
    "odds": ("the odd numbers of the list x, in order", "[n for n in x if n % 2 == 1]"),
    "positives": ("the numbers of the list x greater than 0", "[n for n in x if n > 0]"),
    "doubled": ("the list x with every number doubled", "[2 * n for n in x]"),
    "squares": ("the list x with every number squared", "[n * n for n in x]"),
    "count_positive": (
        "how many numbers of the list x are greater than 0",
        "sum(n > 0 for n in x)",
    ),
    "count_even": ("how many numbers of the list x are even", "sum(n % 2 == 0 for n in x)"),
    "spread": ("the largest minus the smallest number of the list x", "max(x) - min(x)"),
    "without_first": ("the list x without its first number", "x[1:]"),
    "without_last": ("the list x without its last number", "x[:-1]"),
    "without_copies": ("how many different numbers the list x has", "len(set(x))"),
    "sum_of_squares_of": ("the sum of the squares of the list x", "sum(n * n for n in x)"),
    "has_zero": ("True if 0 is in the list x, else False", "0 in x"),
    **{f"first_{k}": (f"the first {k} numbers of the list x", f"x[:{k}]") for k in (2, 3)},
    **{
        f"count_above_{k}": (
            f"how many numbers of the list x are greater than {k}",
            f"sum(n > {k} for n in x)",
        )
        for k in (3, 5, 10)
    },
    **{
        f"each_plus_{k}": (
            f"the list x with {k} added to every number",
            f"[n + {k} for n in x]",
        )
        for k in (1, 2, 5)
    },
}
OF_WORD: Table = {
    "upper": ("the text s in capital letters", "s.upper()"),
    "title": ("the text s with a capital first letter", "s.capitalize()"),
    "reverse": ("the text s from its end to its start", "s[::-1]"),
    "text_length": ("the number of characters of the text s", "len(s)"),
    "first_letter": ("the first letter of the text s", "s[0]"),
    "last_letter": ("the last letter of the text s", "s[-1]"),
    "without_first_letter": ("the text s without its first letter", "s[1:]"),
    "without_last_letter": ("the text s without its last letter", "s[:-1]"),
    "twice": ("the text s written twice, without a space", "s + s"),
    "thrice": ("the text s written three times, without spaces", "s * 3"),
    "letters": ("a list of the letters of the text s", "list(s)"),
    "sorted_letters": ("the letters of the text s in the order of the alphabet, as a text",
                       "''.join(sorted(s))"),
    "vowels": ("how many letters of the text s are vowels (a, e, i, o, u)",
               "sum(c in 'aeiou' for c in s)"),
    "without_vowels": ("the text s without its vowels (a, e, i, o, u)",
                       "''.join(c for c in s if c not in 'aeiou')"),
    "is_palindrome": ("True if the text s reads the same from both ends, else False",
                      "s == s[::-1]"),
    **{f"count_{c}": (f"how many letters of the text s are `{c}`", f"s.count('{c}')")
       for c in "abeo"},
    **{f"has_{c}": (f"True if the letter `{c}` is in the text s, else False", f"'{c}' in s")
       for c in "aciu"},
    **{f"starts_with_{c}": (f"True if the text s starts with `{c}`, else False",
                            f"s.startswith('{c}')") for c in "abo"},
    **{f"{c}_to_{d}": (f"the text s with every `{c}` replaced by `{d}`",
                       f"s.replace('{c}', '{d}')") for c, d in ("ax", "eb", "oa")},
}  # fmt: skip


def functions() -> list[Problem]:
    """Functions of one line."""
    kinds = (
        (OF_NUMBER, "n: int", number),
        (OF_TWO, "a: int, b: int", two_numbers),
        (OF_LIST, "x: list", numbers),
        (OF_WORD, "s: str", word),
    )
    return [
        Problem(name, f"Write a Python function `{name}` that returns {asked}.",
                f"def {name}({arguments}):\n    return {code}", draw)
        for table, arguments, draw in kinds
        for name, (asked, code) in table.items()
    ]  # fmt: skip


def programs() -> list[Problem]:
    """Programs that read a line and print one."""
    split = "a, b = map(int, input().split())\n"
    listed = "x = list(map(int, input().split()))\n"
    tables: tuple[tuple[str, str, Callable[[random.Random], list[Any]], dict[str, Any]], ...] = (
        ("one number n", "n = int(input())\n", number, {
            "print_double": ("n times 2", "n * 2"),
            "print_next": ("n plus 1", "n + 1"),
            "print_square": ("the square of n", "n * n"),
            "print_parity": ("`even` if n is even, else `odd`", "'odd' if n % 2 else 'even'"),
        }),
        ("two numbers a and b", split, two_numbers, {
            "print_sum": ("their sum", "a + b"),
            "print_product": ("their product", "a * b"),
            "print_larger": ("the larger one", "max(a, b)"),
        }),
        ("several numbers", listed, numbers, {
            "print_total": ("their sum", "sum(x)"),
            "print_largest": ("the largest one", "max(x)"),
            "print_sorted": ("them from small to large", "*sorted(x)"),
        }),
        ("one word", "s = input()\n", word, {
            "print_reversed": ("it from its end to its start", "s[::-1]"),
            "print_length": ("its number of letters", "len(s)"),
        }),
    )  # fmt: skip
    return [
        Problem(name, f"Write a Python program that reads a line with {read} and prints {asked}.",
                f"{start}print({code})", draw, reads=True)
        for read, start, draw, table in tables
        for name, (asked, code) in table.items()
    ]  # fmt: skip


def row(problem: Problem) -> dict[str, Any]:
    """A problem with LiveCodeBench's columns."""
    rng = random.Random(problem.name)
    cases: list[dict[str, str]] = []
    for _ in range(100):
        drawn = case(problem, problem.draw(rng))
        if drawn not in cases:
            cases.append(drawn)
        if len(cases) == NUM_PUBLIC + NUM_PRIVATE:
            break
    public, private = cases[:NUM_PUBLIC], cases[NUM_PUBLIC:]
    text = json.dumps(private)
    head = problem.solution.partition("\n")[0]
    return {
        "question_title": problem.name,
        "question_content": problem.asked + "\n" + "\n".join(map(shown, public)),
        "platform": "atcoder" if problem.reads else "leetcode",
        "question_id": problem.name,
        "contest_id": "examples",
        "contest_date": "2025-02-01T00:00:00",
        "starter_code": "" if problem.reads else f"{head}\n    ",
        "difficulty": "easy",
        "public_test_cases": json.dumps(public),
        "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(text))).decode(),
        "metadata": json.dumps({} if problem.reads else {"func_name": problem.name}),
    }


def case(problem: Problem, arguments: list[Any]) -> dict[str, str]:
    """One case: what the right program makes of the arguments."""
    if problem.reads:
        words = [str(v) for one in arguments for v in (one if isinstance(one, list) else [one])]
        line = " ".join(words)
        printed: list[str] = []
        names = {"input": lambda: line, "print": lambda *a: printed.append(" ".join(map(str, a)))}
        exec(problem.solution, names)
        return {"input": line + "\n", "output": printed[0] + "\n", "testtype": "stdin"}
    names = dict[str, Any]()
    exec(problem.solution, names)
    value = names[problem.name](*arguments)
    given = "\n".join(json.dumps(one) for one in arguments)
    return {"input": given, "output": json.dumps(value), "testtype": "functional"}


def shown(one: dict[str, str]) -> str:
    given = ", ".join(one["input"].strip().split("\n"))
    return f"Example: {given} gives {one['output'].strip()}"


def main() -> None:
    problems = [*functions(), *programs()]
    random.Random(0).shuffle(problems)
    num_held_out = round(HELD_OUT_SHARE * len(problems))
    parts = {"held_out": problems[:num_held_out], "train": problems[num_held_out:]}
    for name, chosen in parts.items():
        text = "".join(json.dumps(row(problem)) + "\n" for problem in chosen)
        Path(__file__).with_name(f"{name}.jsonl").write_text(text)
        print(f"{name}.jsonl: {len(chosen)} problems")


if __name__ == "__main__":
    main()
