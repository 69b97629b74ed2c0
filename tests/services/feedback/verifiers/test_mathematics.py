"""Claims about mathematical answers: pairs written by hand, and the reader's known failures."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import FeedbackItem, FeedbackQuery
from preceptor_clients.sdk import NotJudged, Response
from preceptor_services.feedback.function import Function
from preceptor_services.feedback.verifiers.mathematics import math
from preceptor_services.feedback.verifiers.mathematics.reading import math_verify

FOLDER = Path(__file__).parent


class Pair(NamedTuple):
    """What a person says of a right answer and what a student wrote."""

    sign: str
    right: str
    given: str


def pairs() -> list[Pair]:
    lines = (FOLDER / "answer_pairs.txt").read_text().splitlines()
    cells = [re.split(r"\s{2,}", f"{line}  ", maxsplit=2) for line in lines if line[:1] in "=!?"]
    return [Pair(a, b, c.strip().replace("↵", "\n")) for a, b, c in (c for c in cells if c[0])]


def sign_of(item: FeedbackItem) -> str:
    return {1.0: "=", 0.0: "!", None: "?"}[item.score]


async def judged(found: Sequence[Pair], **options: float) -> list[FeedbackItem]:
    """The verifier's items, made by processes as in a run."""
    items: list[FeedbackItem] = []
    for item in await items_or_problems(found, **options):
        assert isinstance(item, FeedbackItem), item
        items.append(item)
    return items


async def items_or_problems(
    found: Sequence[Pair], **options: float
) -> list[FeedbackItem | PreceptorError]:
    queries = [
        FeedbackQuery.model_validate(
            {
                "rollout_id": f"r{i}",
                "prompt": {"messages": [{"role": "user", "content": "?"}]},
                "response_ids": [1],
                "response_text": pair.given,
                "finish_reason": "stop",
                "payload_sha256": "0" * 64,
                "payload": {"answer": pair.right},
            }
        )
        for i, pair in enumerate(found)
    ]
    source = Function(**{"function": "math", "workers": 1, "timeout_s": 60.0, **options})
    await source.start()
    answers = await source.feedback(queries)
    await source.stop()
    return [a if isinstance(a, PreceptorError) else a.items[0] for a in answers]


@pytest.mark.slow
async def test_the_pairs_by_hand_agree_but_for_those_that_are_explained() -> None:
    known = tomllib.loads((FOLDER / "answer_disagreements.toml").read_text())["pair"]

    found = pairs()
    items = await judged(found)

    signs = zip(found, map(sign_of, items), strict=True)
    differ = {(pair.right, pair.given, sign) for pair, sign in signs if sign != pair.sign}
    assert len(found) >= 250
    assert differ == {(one["right"], one["given"], one["says"]) for one in known}
    assert all(one["why"] for one in known)
    assert all(item.text for item in items if item.score == 0.0)
    assert all(item.error for item in items if item.score is None)


# What math-verify is known to get wrong: numbers of its tracker, and right verdicts.
KNOWN = [
    pytest.param(Pair("=", r"\sqrt{1/n}", r"$\frac{1}{\sqrt{n}}$"), id="64-roots"),
    pytest.param(Pair("!", "3*x-1*y+13=0", "3x + 4y + 14=0"), id="60-equations-without-delimiters"),
    pytest.param(Pair("?", "f(x) = 0", r"\forall x>0, f(x) = 0"), id="64-quantifiers"),
    pytest.param(Pair("=", "73", "2*234 = 468.\n\n✅ Final Answer: **73**"), id="76-bold-numbers"),
    pytest.param(Pair("!", r"\frac{1}{2004!}", r"$\frac{1}{2006!}$"), id="14-tiny-factorials"),
    pytest.param(Pair("!", r"\frac{1}{2^{99}}", r"$\frac{1}{2^{98}}$"), id="14-tiny-powers"),
    pytest.param(Pair("!", "n=2, 3, 4", "$n=1, 2, 3$"), id="14-one-side-of-lists"),
    pytest.param(Pair("!", "D = (0, 1)", "$D = (0, 1.5)$"), id="14-one-side-of-intervals"),
    pytest.param(Pair("!", r"\pm 2021", "$2021$"), id="14-two-signs"),
    pytest.param(Pair("!", "12:00", "$1:00$"), id="14-times"),
    pytest.param(Pair("?", r"1, 2, \ldots, n", r"$1, 3, \ldots, 2n-1$"), id="14-dots"),
    pytest.param(Pair("=", r"\dfrac{9}{7}", r"\frac{9}{7}"), id="70-bare-latex"),
    pytest.param(Pair("=", r"\sqrt{17}", "4.123105625617661"), id="48-decimals-of-roots"),
    pytest.param(Pair("=", r"e^{16} - 1", "-1 + exp(16)"), id="69-plain-notation"),
    pytest.param(Pair("!", "4", r"$4\sqrt(2)$"), id="41-roots-in-parentheses"),
    pytest.param(Pair("=", "7", r"\text{7}"), id="37-numbers-as-text"),
]
CASES: list[Pair] = [case.values[0] for case in KNOWN]  # type: ignore[misc]


def verdict(pair: Pair) -> str:
    try:
        return "=" if math({"answer": pair.right}, Response(pair.given)).score else "!"
    except NotJudged:
        return "?"


@pytest.mark.parametrize("pair", KNOWN)
def test_a_known_failure_of_the_reader_is_judged_right(pair: Pair) -> None:
    assert verdict(pair) == pair.sign


def test_threads_get_the_same_verdicts_and_no_alarm_is_set() -> None:
    before = signal.getsignal(signal.SIGALRM)

    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(verdict, CASES * 2))

    assert verdicts == [pair.sign for pair in CASES] * 2
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def spin() -> None:
    while True:
        pass


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    burners = [multiprocessing.get_context("spawn").Process(target=spin) for _ in range(2)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


async def test_on_a_busy_machine_a_verdict_is_right_or_missing_with_a_reason() -> None:
    endless = Pair("?", "7", r"\boxed{2^{2^{2^{2^{2^{2}}}}} + \sin(10^{10^{10}})}")

    with busy_machine():
        first, *others = await items_or_problems([endless, *CASES], timeout_s=2.0)

    assert "took longer than 2 s" in str(first)
    for pair, item in zip(CASES, others, strict=True):
        if isinstance(item, PreceptorError):  # not judged, with its reason
            continue
        assert sign_of(item) == pair.sign, pair
        assert item.error or item.score is not None


@pytest.mark.parametrize(
    ("answer", "response", "options", "said"),
    [
        ("204", "'$*\u2fff=\x1f'", {}, "there is no answer in the response"),
        (
            "204",
            "I have tried for long.\nIt is too hard.",
            {},
            "there is no answer in the response",
        ),
        (
            "204",
            "It is 204.",
            {"boxed": True},
            r"there is no answer in \boxed{}; the answer is 204",
        ),
        ("204", r"\boxed{-204}", {}, "-204 is wrong, by its sign; the answer is 204"),
        (r"5\text{ cm}", "5 m", {}, "5 m is wrong"),
        ([1, "2"], r"\boxed{3}", {}, "3 is wrong; the answer is 1 or 2"),
        ("7", r"$\frac{7}{$", {"unreadable": "wrong"}, "has braces that do not match"),
    ],
)
def test_a_wrong_answer_is_told_what_is_wrong(
    answer: object, response: str, options: dict[str, bool], said: str
) -> None:
    found = math({"answer": answer}, Response(response), **options)  # type: ignore[arg-type]

    assert found.score == 0.0
    assert said in str(found.text)


def test_the_digits_that_a_rounded_answer_needs_are_an_option() -> None:
    row, rough = {"answer": r"\frac{1}{3}"}, Response("0.333")

    assert math(row, rough).score == 0.0
    assert math(row, rough, digits=3).score == 1.0


@pytest.mark.parametrize("answer", [True, None, [], {"x": 1}])
def test_a_row_without_an_answer_is_an_error(answer: object) -> None:
    with pytest.raises(ValueError, match="column 'answer'"):
        math({"answer": answer}, Response("7"))


def test_a_row_whose_answer_cannot_be_read_is_an_error_of_the_row() -> None:
    with pytest.raises(NotJudged, match="the row's own answer"):
        math({"answer": r"\frac{1}{"}, Response("7"))


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)

    with pytest.raises(ImportError, match=r"pip install 'preceptor\[math\]'"):
        math_verify.__wrapped__()


def seconds(response: str) -> float:
    before = time.process_time()
    with contextlib.suppress(NotJudged):
        math({"answer": "7"}, Response(response))
    return time.process_time() - before


@pytest.mark.parametrize(
    "part", ["\\[ ", "\\( ", "$$ ", "\\boxed{", "<answer>", "answer is ", r"\boxed{1} "]
)
def test_the_time_of_a_response_grows_with_its_length_and_not_with_its_square(part: str) -> None:
    short, long = seconds(part * 5_000), seconds(part * 40_000)

    assert long < 30 * max(short, 0.02)
