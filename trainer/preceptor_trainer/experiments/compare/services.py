"""One deployment for all cells of a comparison.

Cells do not meet in it: each run has a name space of its own for weights, and its rollouts carry
its name. What two cells ask alike (the same student, prompt and attempt) is answered once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor_trainer.experiments.compare.method import Service

RUNS = "runs"
"""Folder of the cells' runs, and the root under which weights may lie."""

SELF_TEACHER = "preceptor_services.experts.self_teacher:SelfTeacher"

_HEAD = """\
# Made by `preceptor compare`. Ports 0 are chosen when it starts.
[gateway]
port = 0
broker = "embedded"
database = "sqlite+aiosqlite:///preceptor.db"
blobs = "blobs"
weights_roots = ["runs"]
hash_key_file = "keys/hash.key"

[keys.trainer]
file = "keys/trainer.key"
scopes = ["trainer"]

[keys.dispatcher]
file = "keys/dispatcher.key"
scopes = ["dispatcher"]

[sources.executor]
url = "http://127.0.0.1:0"
key_file = "keys/executor.key"
use = "preceptor_services.feedback.executor:Executor"
"""

_EXPERT = """
[experts.{name}]
url = "http://127.0.0.1:0"
key_file = "keys/{name}.key"
use = {use}

[experts.{name}.options]
{options}
"""


def self_teacher(
    *, ema_rate: float = 0.05, needs_feedback: bool = True, trust_region: float | None = None
) -> Service:
    """The student's own policy with feedback in view.

    Args:
        ema_rate: 1 is the live policy, 0 the initial one.
        needs_feedback: Whether it has no opinion where nothing is in view.
        trust_region: Share of that policy in a geometric mixture with the initial one, where given;
            with `ema_rate` 1 this is SDPO's trust-region teacher.
    """
    options: dict[str, Any] = {
        "template": "compact",
        "ema_rate": ema_rate,
        "needs_feedback": needs_feedback,
    }
    if trust_region is not None:
        options["trust_region"] = trust_region
    return Service(use=SELF_TEACHER, options=options, is_model=True)


def larger_model(model: Path) -> Service:
    """A larger model that reads the plain prompt; its weights never change."""
    return Service(
        use=SELF_TEACHER,
        options={"model": str(model), "ema_rate": 0.0, "needs_feedback": False},
        is_model=True,
        larger=True,
    )


class NoModel(ValueError):
    """A method needs a model that nobody has made or downloaded."""


def write_deployment(folder: Path, services: Mapping[str, Service], model: Path) -> Path:
    """Writes `preceptor.toml` for a comparison in `folder`; a changed plan changes the file.

    Raises:
        NoModel: a service's model is not there.
    """
    runs = (folder / RUNS).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    text = _HEAD
    for name, service in sorted(services.items()):
        options: dict[str, Any] = dict(service.options)
        if service.is_model:
            # where a version may lie is checked also by a model that ignores versions
            own = {"name": name, "threads": 2, "weights_roots": [str(runs)]}
            options |= {"model": str(model.resolve()), **own, **service.options}
            if not Path(options["model"], "config.json").is_file():
                raise NoModel(
                    f"services: {name!r} has no model at {options['model']}; `make larger` makes "
                    "the larger model of the methods here, PRECEPTOR_LARGER_MODEL names its folder"
                )
        # JSON's numbers, strings, booleans and lists are TOML's
        lines = [f"{key} = {json.dumps(value)}" for key, value in sorted(options.items())]
        text += _EXPERT.format(name=name, use=json.dumps(service.use), options="\n".join(lines))
    path = folder / "preceptor.toml"
    path.write_text(text)
    return path
