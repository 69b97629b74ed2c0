"""The comparison's report: `compare.html`, `compare.md`, `compare.json` and two pictures.

Like a run's page it is one file that runs no script and loads nothing, in the same style.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from preceptor_clients.kit.files import write_whole
from preceptor_trainer.experiments.compare.charts import charts, forest
from preceptor_trainer.experiments.compare.pictures import draw_curves, draw_gains
from preceptor_trainer.experiments.compare.tables import claims, markdown, tables
from preceptor_trainer.report.drawing import COLOURS


def write_comparison(analysis: Mapping[str, Any], folder: Path) -> Path:
    """Writes the report in all its forms; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "compare.json", json.dumps(analysis, allow_nan=False) + "\n")
    write_whole(folder / "compare.md", markdown(analysis))
    write_whole(folder / "compare.html", render(analysis))
    draw_gains(analysis, folder / "compare.png")
    draw_curves(analysis, folder / "curves.png")
    return folder / "compare.html"


def render(analysis: Mapping[str, Any]) -> str:
    """The page as text."""
    environment = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("preceptor_trainer.experiments.compare"),
                PackageLoader("preceptor_trainer.report"),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = [f"pass@{k}" for k in analysis["ks"]]
    return environment.get_template("compare.html.j2").render(
        analysis=analysis,
        claims=claims(analysis),
        forests={name: forest(analysis, name) for name in names},
        charts=charts(analysis),
        tables=tables(analysis),
        colours=COLOURS,
        titles=[method["title"] for method in analysis["methods"].values()],
        notes=[(m["title"], m["note"]) for m in analysis["methods"].values() if m["note"]],
    )
