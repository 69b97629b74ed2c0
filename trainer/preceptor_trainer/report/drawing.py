"""Pictures with matplotlib: the paper, the colours, and an axis without ornaments.

With matplotlib's objects and without pyplot, so that no global state and no display is needed.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from preceptor_trainer.kit.disk import disk_errors

INK: Final = "#1b1f24"
MUTED: Final = "#667079"
GRID: Final = "#e4e7eb"
COLOURS: Final = (
    "#0b63b0", "#b8500b", "#2e7d32", "#6d5aa8", "#c2185b", "#00838f",
    "#8d6e00", "#5d4037", "#546e7a", "#d32f2f", "#7cb342", "#000000",
)  # fmt: skip
"""Colours of the lines in one chart, in order."""
DPI: Final = 160


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches."""
    figure: Any = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def without_frame(axes: Any, *, grid: Literal["x", "y", "both"]) -> None:
    """Lines of a grid behind what is drawn, instead of a frame and small strokes."""
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both")
    hide_sides(axes, tuple(axes.spines))


def hide_sides(axes: Any, sides: Sequence[str] = ("top", "right")) -> None:
    """Takes sides of the frame away."""
    for side in sides:
        axes.spines[side].set_visible(False)


def save(figure: Any, path: Path, dpi: int = DPI) -> Path:
    """Writes a PNG: the same bytes for the same picture."""
    with warnings.catch_warnings():
        # characters that the font lacks are drawn as boxes; a warning must not fail the picture
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        with disk_errors(path):
            figure.savefig(path, dpi=dpi, facecolor="white", metadata={"Software": None})
    return path
