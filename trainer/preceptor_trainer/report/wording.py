"""A run's result in plain words and readable numbers.

The words follow the numbers: an interval that includes 0 is never called a gain.
"""

import unicodedata
from typing import Literal, TypeAlias

from preceptor_trainer.report.run_files import Corrections, Interval, Late, Summary

Verdict: TypeAlias = Literal["better", "unclear", "worse"]

MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NARROW NO-BREAK SPACE}"

PHASE_NAMES = {
    "wake": "Waking the sampler",
    "sampling": "Sampling rollouts",
    "feedback": "Feedback sources",
    "experts": "Experts",
    "targets": "Building targets",
    "sleep": "Putting the sampler to sleep",
    "update": "Updating the student",
    "publish": "Publishing weights",
    "evaluation": "Evaluation before and after",
}

_WHITESPACE = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}


def verdict(gain: Interval) -> Verdict:
    """The conclusion that the interval of a difference supports."""
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "unclear"


def percent(share: float, digits: int = 1) -> str:
    """34.5 %"""
    return f"{share * 100:.{digits}f}{NARROW}%"


def points(difference: float) -> str:
    """A signed difference of two shares, in percentage points."""
    return signed(difference * 100, 1)


def signed(value: float, digits: int) -> str:
    """+1.5, −0.3, 0.0"""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def count(number: int) -> str:
    """2 560"""
    return f"{number:,}".replace(",", NARROW) if number >= 10_000 else str(number)


def corrections(people: Corrections) -> str:
    """50 rollouts sent to people, 31 stand, trained on 160 times"""
    sent = f"{count(people.sent)} rollouts sent to people"
    stand = f"{count(people.standing)} {'stands' if people.standing == 1 else 'stand'}"
    return f"{sent}, {stand}, trained on {count(people.trained)} times"


def late(answers: Late) -> str:
    """228 rows joined, 16 dropped, 8 skipped at first, 4 awaited"""
    joined, dropped = count(answers.joined), count(answers.dropped)
    skipped, waiting = count(answers.skipped), count(answers.waiting)
    return f"{joined} rows joined, {dropped} dropped, {skipped} skipped at first, {waiting} awaited"


def outcome(solved: bool | None) -> str:
    """What became of an attempt; None where no source judged it."""
    return {True: "solved", False: "failed", None: "not judged"}[solved]


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 10 min"""
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{NARROW}h {minutes:02}{NARROW}min"
    return f"{minutes}{NARROW}min {rest:02}{NARROW}s"


def readable(text: str) -> str:
    """Text with invisible characters and marks of writing direction spelled out; lines are kept.

    The text of a model may hold such characters.
    """
    return "".join(c if c in "\n\t" else _spelled_out(c) for c in text)


def one_glance(text: str) -> str:
    """A token as one visible run of characters: its blanks are shown as signs."""
    if not text:
        return "∅"
    return "".join(_WHITESPACE.get(c) or _spelled_out(c) for c in text)


def _spelled_out(char: str) -> str:
    return f"\\u{ord(char):04x}" if unicodedata.category(char).startswith("C") else char


def story(summary: Summary, *, feedback_in_view: bool) -> list[str]:
    """What happened and how to read it, as sentences grouped into paragraphs."""
    return [
        _what_happened(summary, feedback_in_view),
        _what_came_of_it(summary),
        _how_to_read_it(summary),
    ]


def _what_happened(summary: Summary, feedback_in_view: bool) -> str:
    if summary.config.get("experts") == []:
        return (
            f"In {summary.steps} steps the student made {count(summary.rollouts)} attempts. "
            "Feedback sources judged them; no expert was asked. On the held-out problems the "
            "student answered before and after."
        )
    view = "with that feedback in view" if feedback_in_view else "from whom it was withheld"
    return (
        f"In {summary.steps} steps the student made {count(summary.rollouts)} attempts. "
        f"Feedback sources looked at each attempt; experts {view} said, token by token, what they "
        f"would have written in its place. {count(summary.targets)} attempts got such a target, "
        "and the student was trained towards them. On the held-out problems it answered alone, "
        "before and after, with no feedback in view."
    )


def _what_came_of_it(summary: Summary) -> str:
    k = min(summary.gain.pass_at)
    before, after = summary.before.pass_at[k].mean, summary.after.pass_at[k].mean
    gain = summary.gain.pass_at[k]
    what = "one answer was right" if k == 1 else f"at least one of {k} answers was right"
    measured = (
        f"Held out, {what} in {percent(before)} of cases before and {percent(after)} after: "
        f"a difference of {points(gain.mean)} points, with a 95{NARROW}% interval from "
        f"{points(gain.low)} to {points(gain.high)}. "
    )
    return measured + _CONCLUSIONS[verdict(gain)] + _narrowing(summary)


_CONCLUSIONS: dict[Verdict, str] = {
    "better": "The whole interval lies above 0: the choice of problems does not explain the gain.",
    "unclear": "The interval includes 0: this run does not show that training helped. More "
    "held-out problems, more steps or more seeds are needed to decide.",
    "worse": "The whole interval lies below 0: training made the student worse here.",
}


def _narrowing(summary: Summary) -> str:
    """A warning if pass@k fell for the largest k and not for the smallest."""
    first, last = min(summary.gain.pass_at), max(summary.gain.pass_at)
    if first == last or summary.gain.pass_at[last].high >= 0:
        return ""
    if verdict(summary.gain.pass_at[first]) == "worse":
        return ""
    return (
        f" But pass@{last} fell: the answers to a problem have become more alike, and fewer "
        f"problems are solved in {last} tries."
    )


def _how_to_read_it(summary: Summary) -> str:
    evaluation = summary.after
    return (
        "pass@k is the chance that at least one of k answers is right, estimated without bias "
        f"from {evaluation.num_samples} samples of each of {count(evaluation.num_problems)} "
        "problems. "
        "Intervals come from resampling the problems, for the difference in pairs. They are about "
        "other problems like these, not of another training seed: compare methods over several."
    )


def describe_interval(interval: Interval) -> str:
    """34.5 % (31.2 to 37.9)"""
    low, high = (f"{bound * 100:.1f}" for bound in (interval.low, interval.high))
    return f"{percent(interval.mean)} ({low} to {high})"
