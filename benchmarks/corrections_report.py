"""Statistics, picture and page of `corrections.py`, all from its cells' raw counts.

python benchmarks/corrections_report.py        # page and picture again, from the JSON
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from preceptor_trainer.experiments.compare.statistics import correct, estimate

HERE: Final = Path(__file__).parent
RESULT: Final = HERE / "results" / "corrections.json"
DOCS: Final = HERE.parent / "docs"
PLANNED_SEEDS: Final = 5
PAGE: Final = Path("explanation", "corrections-experiment.md")
FIGURE: Final = "corrections-experiment.png"
COMMAND: Final = "python benchmarks/corrections.py"
TITLES: Final = {
    "none": "no corrections",
    "targets": "token targets",
    "sft": "SFT on the corrected texts",
    "feedback": "corrections as feedback",
}
COLORS: Final = {"targets": "#1f6f8b", "sft": "#b5762f", "feedback": "#6b5b95", "none": "#888888"}

PROBES: Final = (
    ("8 x 2 attempts a step: token targets", "0.94", "0.81", ""),
    ("the same at 2e-3", "0.23", "0.32", ""),
    ("the same, CE-to-go, a person's text from its first change on", "0.20", "0.18", ""),
    ("the same, local term, a person's text from its first change on", "1.32", "0.78", ""),
    ("that, and accepted tokens labels too", "0.74", "2.28", ""),
    ("SFT", "1.43", "2.66", ""),
    ("corrections as feedback", "0.81", "1.47", ""),
    ("no corrections", "0.07", "0.31", "0.08"),
    ("16 x 1 attempts a step: token targets", "1.44", "2.03", "3.60"),
    ("the same, people's labels weigh 4", "1.61", "3.06", ""),
    ("the same, the take-over alone", "2.05", "4.01", ""),
    ("the same, a person's text from its first change on", "1.69", "2.59", "6.61"),
    ("without labels that the take-over repeats", "1.03", "2.06", "2.78"),
    ("that, and a person's text from its first change on", "2.88", "3.17", "8.18"),
    ("that at 1.5e-3", "1.36", "4.22", "4.89"),
    ("no corrections", "0.14", "0.16", "0.24"),
)
"""What was tried, chance in per cent after 10, 18 and 30 steps: validation, seed 100."""

REST: Final = (
    "## What each arm sees",
    "",
    "- **No corrections**: the executor's output in the self-teacher's view, as in all arms.",
    "- **Token targets**: labels where the edit departs from the student's own sequence, and on "
    "what the person's text has from there on. The tokens before are no labels.",
    "- **SFT on the corrected texts**: the same texts as sequences, every token a label.",
    "- **Corrections as feedback**: the corrected text in the self-teacher's view, which labels "
    "the student's own sequence. Each use asks the self-teacher once more.",
    "",
    "A sequence that is given counts with its whole length against the budget, however few of its "
    "tokens are labelled.",
    "",
    "## Why nothing is learnt without corrections",
    "",
    "No attempt at these problems ever succeeds, so the self-teacher sees what was wrong and "
    "never what is right. On validation problems the chance of the right answers stays at a tenth "
    "to half a per cent for 90 steps, and falls to nothing in the last 20; responses are then 20 "
    "tokens instead of 26. Why so late was not looked into. With the sequence-level term it is "
    "worse: costs-to-go are positive, so the shortest response is the cheapest where none "
    "succeeds (`objectives/distil.py` warns of it), and under the earlier plan responses shrank "
    "from 26 tokens to 12 and less. All arms therefore have the local term alone "
    "(`future='none'`). The gain over the untrained student says what corrections add to a "
    "student that is left as it was.",
    "",
    "## How the settings were chosen",
    "",
    "On 36 validation problems of the kind with a seed of their own, never on held-out ones, by "
    "the student's mean probability of the known right answers; it is 0.13 % at the start. One run "
    "each, at 1e-3 with the local term where nothing else is said, so small differences may be "
    "chance. An earlier plan (CE-to-go, 8 x 2 attempts, half the budget) had run nine cells on the "
    "held-out problems when this one was made: token targets were at 0.3 %, SFT at 1.5 %.",
    "",
    "| tried | chance after 10 steps | after 18 | after 30 |",
    "|---|---|---|---|",
    *("| " + " | ".join(row) + " |" for row in PROBES),
    "",
    "What made the difference: an attempt at another problem each time, so that 256 corrections "
    "are of 256 problems and not two of each; labels that are not drawn twice; and, for a student "
    "that spells in bytes, counting everything after a person's first change as that person's, "
    "since three equal bytes in a row are soon there by chance (`rejoin_tokens` of the round). "
    "The last two were found for token targets; SFT has every token anyway.",
    "",
    "Without anything on-policy, 256 reference answers as plain SFT at 1e-3 bring that chance to "
    "5.6 % in 8 steps of 32 and 8.3 % in 24.",
    "",
    "## What it does not show",
    "",
    "One learning rate for all arms, chosen for token targets; the others had no search of their "
    "own. The budget is small: corrections come in until half of it is spent. The person is a "
    "script that knows right answers and picks the one that changes least; people are slower and "
    "less right. The student is small, and so is the world.",
    "",
)


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Levels, gains and paired differences, with the raw counts they were made of."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        groups.setdefault((result["arm"], result["corrections"]), []).append(result)
    most = max(corrections for _, corrections in groups)
    levels = {
        _name(*key): {
            "seeds": len(rows),
            "after": asdict(estimate(_shares(rows, "after"), seed=0)),
            "gain": asdict(estimate(_shares(rows, "after") - _shares(rows, "before"), seed=0)),
            "over_none": None
            if key[0] == "none"
            else asdict(estimate(_paired(rows, groups["none", 0]), seed=0)),
        }
        for key, rows in groups.items()
    }
    family = {
        f"targets - {other}": estimate(_paired(groups["targets", most], groups[other, n]), seed=0)
        for other, n in (("none", 0), ("sft", most), ("feedback", most))
    }
    return {
        "command": COMMAND,
        "plan": results[0]["plan"],
        "seeds": len(groups["none", 0]),
        "num_problems": len(results[0]["problem_ids"]),
        "num_train": results[0]["num_train"],
        "most_corrections": most,
        "levels": levels,
        "comparisons": {name: asdict(found) for name, found in correct(family).items()},
        "totals": {_name(*key): _totals(rows) for key, rows in groups.items()},
        "cell_s_median": float(np.median([r["cell_s"] for r in results])),
        "cells": [{k: v for k, v in r.items() if k != "plan"} for r in results],
    }


def _shares(rows: Sequence[Mapping[str, Any]], moment: str) -> NDArray[np.float64]:
    """`[S, P]` share of attempts that succeeded."""
    return np.array([row[moment] for row in rows]) / rows[0]["plan"]["samples"]


def _paired(
    rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    """`[S, P]` difference after training, over the seeds that both have."""
    both = {row["seed"] for row in rows} & {row["seed"] for row in others}
    first, second = ([r for r in some if r["seed"] in both] for some in (rows, others))
    return _shares(first, "after") - _shares(second, "after")


def _name(arm: str, corrections: int) -> str:
    return f"{arm}-{corrections}"


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    means, sums = (
        ("steps", "tokens", "training_s", "length_after"),
        ("settled", "reviewed", "dropped_answers"),
    )
    found = {name: float(np.mean([r[name] for r in rows])) for name in means}
    found |= {name: float(sum(r[name] for r in rows)) for name in sums}
    return found | {
        name: float(sum(r["targets"][name] for r in rows))
        for name in ("made", "traced", "traced_to_reviewer")
    }


# ---------------------------------------------------------------- out


def publish(summary: Mapping[str, Any], folder: Path | None = None) -> None:
    """Writes JSON, picture and page; into one folder where it is given."""
    result = RESULT if folder is None else folder / "corrections.json"
    page_file = (DOCS / PAGE) if folder is None else folder / PAGE.name
    figure = (DOCS / "figures" if folder is None else folder) / FIGURE
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(summary, indent=1) + "\n")
    draw(summary, figure)
    page_file.write_text(page(summary, os.path.relpath(figure, page_file.parent)))
    for name, found in summary["comparisons"].items():
        print(f"{name:20} {_interval(found['estimate'])}  Holm p {_p(found['p_holm'])}")
    print(f"wrote {result} and {page_file}")


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Success on held-out problems against the number of corrections."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    levels, numbers = summary["levels"], _numbers(summary)
    for n, arm in enumerate(("targets", "sft", "feedback")):
        known = [k for k in numbers if _name(arm, k) in levels]
        points = [levels["none-0"]["after"], *(levels[_name(arm, k)]["after"] for k in known)]
        mean, low, high = (np.array([100 * p[f] for p in points]) for f in ("mean", "low", "high"))
        places = np.array([0, *(1 + numbers.index(k) for k in known)]) + (n - 1) * 0.06
        axes.errorbar(
            places,
            mean,
            [mean - low, high - mean],
            color=COLORS[arm],
            marker="o",
            capsize=3,
            label=TITLES[arm],
        )
    axes.axhline(100 * levels["none-0"]["after"]["mean"], color=COLORS["none"], linestyle=":")
    axes.set_xticks(range(len(numbers) + 1), [str(n) for n in (0, *numbers)])
    axes.set(xlabel="corrections", ylabel="held-out attempts that succeed, %")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def page(summary: Mapping[str, Any], figure: str) -> str:
    """The page, in words that follow from the numbers alone."""
    plan, most, totals = summary["plan"], summary["most_corrections"], summary["totals"]
    made, found, reviewed = (
        int(sum(t[name] for t in totals.values()))
        for name in ("made", "traced", "traced_to_reviewer")
    )
    lines = [
        "# What corrections are worth",
        "",
        f"Made by `{COMMAND}` from `benchmarks/results/corrections.json`.",
        "",
        "Problems are of three features or a fold, and of those the ones that the untrained "
        "student never solves: its probability of all known right answers is below "
        f"{plan['chance_below']:.1%}, and none of {plan['attempts']} attempts succeeded. A "
        f"scripted person corrects failed attempts at {summary['num_train']} such training "
        "problems, through the queue's HTTP API, while the run goes on. A share of "
        f"{plan['double_share']:.0%} also goes to a second one, blindly, who overlooks every "
        "second mistake; where the two differ a reviewer decides.",
        "",
        "All arms train on those problems, with DistIL's local term and the quickstart's "
        f"feedback, on {plan['problems_per_step']} x {plan['rollouts_per_problem']} fresh attempts "
        f"a step, until {plan['tokens']:,} response tokens, sampled or given, are spent. "
        "Each arm adds corrections in one form, up to "
        f"{plan['corrected_per_step']} sequences a step drawn from all that there are, or none. "
        "What corrections cost of the budget, the arm without has for more attempts of its own.",
        "",
        f"Success is counted on {summary['num_problems']} problems of that kind with "
        f"{'held-out' if plan['measured_on'] == 'held_out' else 'validation'} behaviours, each of "
        f"another, on {plan['samples']} fresh attempts at each, over {summary['seeds']} seeds. The "
        "attempts that chose them are not counted, and nobody trains on them.",
        "",
        f"![Success on held-out problems by the number of corrections]({figure})",
        "",
        "| arm | corrections | seeds | success | over the untrained student | over no corrections "
        "| steps | tokens | training, s | response length after |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, level in summary["levels"].items():
        arm, _, number = key.rpartition("-")
        over = "" if level["over_none"] is None else _interval(level["over_none"])
        lines.append(
            f"| {TITLES[arm]} | {number} | {level['seeds']} | {_interval(level['after'], sign='')} "
            f"| {_interval(level['gain'])} | {over} | {totals[key]['steps']:.0f} | "
            f"{totals[key]['tokens']:,.0f} | {totals[key]['training_s']:.0f} | "
            f"{totals[key]['length_after']:.1f} |"
        )
    lines += [
        "",
        "Per cent of attempts with 95 % intervals, paired by seed and problem "
        "(`preceptor_trainer/experiments/compare/statistics.py`).",
        "",
        f"With {most} corrections, after Holm's correction for the three comparisons:",
        "",
        *(
            f"- {_sentence(name, comparison)}"
            for name, comparison in summary["comparisons"].items()
        ),
        "",
        f"Of {made} targets that corrections led to, each asked about at one labelled token, "
        f"{found} trace to the person and the corrected text; {reviewed} of them also name the "
        "reviewer who decided.",
        "",
        *_not_run(summary),
        *REST,
    ]
    return "\n".join(lines)


def _not_run(summary: Mapping[str, Any]) -> list[str]:
    """What the plan has and these results have not."""
    lines: list[str] = []
    if any(level["seeds"] < PLANNED_SEEDS for level in summary["levels"].values()):
        lines += [
            f"{PLANNED_SEEDS} seeds are planned; the table says how many were run. The intervals "
            "are as wide as so few make them.",
            "",
        ]
    if len(_numbers(summary)) < 2:
        lines += ["The gain against the number of corrections was not measured.", ""]
    return lines


def _numbers(summary: Mapping[str, Any]) -> list[int]:
    keys = (key.rpartition("-") for key in summary["levels"])
    return sorted({int(number) for arm, _, number in keys if arm == "targets"})


def _sentence(name: str, found: Mapping[str, Any]) -> str:
    a, b = name.split(" - ")
    estimated = {**found["estimate"], "low": found["low"], "high": found["high"]}
    said = _interval(estimated)
    if not found["claimed"]:
        said = f"no order is claimed between {TITLES[a]} and {TITLES[b]}: {said}"
    elif found["estimate"]["mean"] > 0:
        said = f"{TITLES[a]} beat {TITLES[b]}: {said}"
    else:
        said = f"{TITLES[a]} fell behind {TITLES[b]}: {said}"
    return f"{said} points, p {_p(found['p_holm'])}."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _interval(found: Mapping[str, Any], sign: str = "+") -> str:
    mean, low, high = (f"{100 * found[name]:{sign}.1f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    publish(json.loads(RESULT.read_text()))
