"""The results of a theory module for its table and figure: plain numbers, as committed."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over one axis."""

    x_label: str
    y_label: str
    x: list[float]
    lines: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The numbers of one page section, by the words that the table uses, and its chart."""

    numbers: dict[str, float]
    chart: Chart

    def rounded(self) -> "Finding":
        """Six significant digits, and 0 for rounding noise: platforms agree on these."""
        return Finding(
            numbers={name: _rounded(value) for name, value in self.numbers.items()},
            chart=Chart(
                x_label=self.chart.x_label,
                y_label=self.chart.y_label,
                x=[_rounded(value) for value in self.chart.x],
                lines={k: [_rounded(v) for v in line] for k, line in self.chart.lines.items()},
            ),
        )

    def chart_hash(self) -> str:
        """Hash stored in the figure, so that a figure of other numbers is detected."""
        return hashlib.sha256(json.dumps(asdict(self.chart)).encode()).hexdigest()

    def table(self) -> str:
        """Markdown, one row per number."""
        rows = [f"| {name} | {_cell(value)} |" for name, value in self.numbers.items()]
        return "\n".join(["| quantity | value |", "|---|---:|", *rows])


def _rounded(value: float) -> float:
    return 0.0 if abs(value) < 1e-7 else float(f"{value:.6g}")


def _cell(value: float) -> str:
    if value == int(value):
        return str(int(value)) if value else "0"
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.1e}"
