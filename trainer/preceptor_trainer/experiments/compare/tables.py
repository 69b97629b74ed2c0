"""The comparison's tables: rows of text, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preceptor_trainer.experiments.compare import sees
from preceptor_trainer.experiments.compare.sees import Sees
from preceptor_trainer.report.wording import count, duration, percent, points

NONE = "–"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A heading, column names and rows; the first column names the row."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(analysis: Mapping[str, Any]) -> list[Table]:
    """All tables of a report, the result first."""
    return [
        result_table(analysis),
        *(order_table(analysis, f"pass@{k}") for k in analysis["ks"]),
        sees_table(analysis),
        behaviour_table(analysis),
        search_table(analysis),
    ]


def result_table(analysis: Mapping[str, Any]) -> Table:
    """pass@k after training, and the gain over the student at the beginning."""
    names = [f"pass@{k}" for k in analysis["ks"]]
    columns = ["method", "learning rate"]
    for name in names:
        columns += [f"{name} before", f"{name} after", f"{name} gain, points"]
    rows: list[tuple[str, ...]] = []
    for method, values in analysis["methods"].items():
        row = [values["title"], f"{values['lr']:g}{' (edge)' if values['lr_at_edge'] else ''}"]
        for name in names:
            levels = values["levels"][name]
            gain = analysis["gains"][name][method]
            row += [percent(levels["before"]["mean"]), level(levels["after"]), _corrected(gain)]
        rows.append(tuple(row))
    num_seeds = len(analysis["seeds"])
    return Table(
        title="Held-out problems",
        note=f"Means over {num_seeds} seed{'s' if num_seeds > 1 else ''} and "
        f"{analysis['held_out']['num_problems']} problems, paired. Levels with 95 % intervals; "
        "gains with the interval that Holm's correction over all methods leaves, * where it "
        "excludes 0. A learning rate marked (edge) is the first or last of those that its search "
        f"tried: a better one may lie beyond.{_ungraded(analysis)}",
        columns=tuple(columns),
        rows=tuple(rows),
    )


def _ungraded(analysis: Mapping[str, Any]) -> str:
    """How many samples have no grade, and which problems that leaves to each pass@k."""
    missing = analysis.get("ungraded", 0)
    if not missing:
        return ""
    used = (
        f"{name} {min(gain['estimate']['num_problems'] for gain in gains.values())}"
        for name, gains in analysis["gains"].items()
    )
    return (
        f" {missing} samples were not graded and count neither way. Problems with grades enough "
        f"in every run: {', '.join(used)}."
    )


def order_table(analysis: Mapping[str, Any], name: str) -> Table:
    """Row minus column, for all pairs."""
    titles = {method: values["title"] for method, values in analysis["methods"].items()}
    found: dict[tuple[str, str], tuple[dict[str, Any], int]] = {}
    for difference in analysis["differences"][name]:
        pair = (difference["first"], difference["second"])
        found[pair], found[pair[::-1]] = (difference, 1), (difference, -1)
    rows = tuple(
        (titles[a], *(_difference(found.get((a, b))) for b in titles if b != list(titles)[-1]))
        for a in list(titles)[1:]
    )
    return Table(
        title=f"Differences in {name}",
        note="Row minus column, in points, with the interval that Holm's correction over all pairs "
        "leaves. Only differences marked * are claimed; all others leave the order open.",
        columns=("", *list(titles.values())[:-1]),
        rows=tuple(_lower_triangle(row, i) for i, row in enumerate(rows)),
    )


def sees_table(analysis: Mapping[str, Any]) -> Table:
    """The information that each method uses."""
    rows: list[tuple[str, ...]] = []
    for values in analysis["methods"].values():
        unused = [sees.LABELS[field] for field in values["sees_unused"]]
        row = sees.row(Sees(**values["sees"]))
        rows.append((values["title"], *row, ", ".join(unused) or NONE))
    return Table(
        title="What each method sees",
        note="As its recipe declares; beside the problem itself. Checked against the runs: what "
        "was in an expert's view, which experts answered, which sequences the student wrote. How "
        "a score is used is declared only.",
        columns=("method", *sees.LABELS.values(), "declared, not used here"),
        rows=tuple(rows),
    )


def behaviour_table(analysis: Mapping[str, Any]) -> Table:
    """Lengths, entropy, share with a teacher, and cost."""
    rows = tuple(
        (
            values["title"],
            f"{values['length']['before']:.1f} → {values['length']['after']:.1f}",
            f"{_number(values['entropy']['first'])} → {_number(values['entropy']['last'])}",
            NONE if values["with_teacher"] is None else percent(values["with_teacher"], 0),
            f"{values['cost']['steps']:g}",
            duration(values["cost"]["seconds"]),
            _whole_run(values["cost"]["wall_seconds"]),
            count(round(values["cost"]["tokens"])),
            count(round(values["cost"]["targets"])),
        )
        for values in analysis["methods"].values()
    )
    return Table(
        title="Behaviour and cost of a run",
        note="Response length on the held-out problems, before and after. Entropy in nats a token "
        "on the trained sequences, first and last step. Cost is of training alone, but for the "
        "whole run, which has loading and evaluations too; that before training is made once for "
        f"a seed, by the method that comes first. {_wall_clock(analysis['wall_clock'])}",
        columns=(
            "method", "length", "entropy", "with a teacher", "steps", "time", "whole run", "tokens",
            "targets",
        ),
        rows=rows,
    )  # fmt: skip


def _whole_run(seconds: float | None) -> str:
    return NONE if seconds is None else duration(seconds)


def _wall_clock(found: Mapping[str, float]) -> str:
    """The sum over the runs of a comparison."""
    if not found["known"]:
        return "What whole runs took is not known."
    of_which = "" if found["known"] == found["runs"] else f" {found['known']} of"
    return (
        f"All{of_which} {found['runs']} runs, those of the search too, took "
        f"{duration(found['seconds'])} one by one."
    )


def search_table(analysis: Mapping[str, Any]) -> Table:
    """pass@1 on the validation problems by learning rate."""
    rows = tuple(
        (
            values["title"],
            ", ".join(
                f"{lr}: {percent(score)}{' ←' if float(lr) == values['lr'] else ''}"
                for lr, score in values["lr_search"].items()
            )
            or _not_searched(values),
        )
        for values in analysis["methods"].values()
    )
    return Table(
        title="Learning rates",
        note="pass@1 on the validation problems after a run of the same budget, with "
        f"{len(analysis['search_seeds'])} seed(s) that are not used otherwise; as many rates for "
        "every method. An arrow marks the one chosen.",
        columns=("method", "rate: validation pass@1"),
        rows=rows,
    )


def _not_searched(values: Mapping[str, Any]) -> str:
    if values["lr_from"] is None:
        return f"{values['lr']:g}, not searched"
    edge = " (edge)" if values["lr_at_edge"] else ""
    return f"{values['lr']:g}{edge}, chosen by the search of {values['lr_from']}"


def claims(analysis: Mapping[str, Any]) -> list[str]:
    """The claims that the numbers support, as sentences."""
    titles = {method: values["title"] for method, values in analysis["methods"].items()}
    said: list[str] = []
    for k in analysis["ks"]:
        name = f"pass@{k}"
        gained = [t for m, t in titles.items() if _sign(analysis["gains"][name][m]) > 0]
        lost = [t for m, t in titles.items() if _sign(analysis["gains"][name][m]) < 0]
        said.append(
            f"In {name}, these methods are above the student they began with: {_list(gained)}; "
            f"these below: {_list(lost)}."
        )
        orders = [
            f"{titles[d['first']]} {'above' if _sign(d) > 0 else 'below'} {titles[d['second']]}"
            for d in analysis["differences"][name]
            if d["claimed"]
        ]
        open_pairs = len(analysis["differences"][name]) - len(orders)
        said.append(
            f"Orders in {name} after correction: {_list(orders)}; "
            f"{open_pairs} of {len(analysis['differences'][name])} pairs stay open."
        )
    return said


def to_markdown(table: Table) -> str:
    """The table with its heading and note."""
    lines = [f"### {table.title}", "", table.note, ""]
    lines.append("| " + " | ".join(table.columns) + " |")
    lines.append("|" + "---|" * len(table.columns))
    lines += ["| " + " | ".join(_cell(c) for c in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def markdown(analysis: Mapping[str, Any]) -> str:
    """All tables and claims as one Markdown page."""
    parts = [f"## {analysis['comparison']}", analysis["question"]]
    parts.append(
        f"Budget of a run: {analysis['budget']}. Seeds {', '.join(map(str, analysis['seeds']))}."
    )
    parts.append("\n".join(f"- {claim}" for claim in claims(analysis)))
    parts += [to_markdown(table) for table in tables(analysis)]
    return "\n\n".join(part for part in parts if part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sign(corrected: Mapping[str, Any]) -> int:
    if not corrected["claimed"]:
        return 0
    return 1 if corrected["low"] > 0 else -1


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def level(estimate: Mapping[str, float]) -> str:
    """A share with its interval, which says no more beyond 0 and 1."""
    low, high = max(estimate["low"], 0.0), min(estimate["high"], 1.0)
    return f"{percent(estimate['mean'])} ({low * 100:.1f} to {high * 100:.1f})"


def _corrected(found: Mapping[str, Any], sign: int = 1) -> str:
    bounds = sorted(sign * found[bound] for bound in ("low", "high"))
    mean = points(sign * found["estimate"]["mean"])
    star = " *" if found["claimed"] else ""
    return f"{mean} ({points(bounds[0])} to {points(bounds[1])}){star}"


def _difference(found: tuple[dict[str, Any], int] | None) -> str:
    return NONE if found is None else _corrected(*found)


def _lower_triangle(row: tuple[str, ...], index: int) -> tuple[str, ...]:
    """Each pair once."""
    return row[: index + 2] + ("",) * (len(row) - index - 2)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
