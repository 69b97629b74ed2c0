"""One deployment for all cells of a comparison.

Cells are separate in it: each run has its own name space for weights, and its rollouts have its
name. Equal queries of two cells (the same student, prompt and attempt) are answered once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor_clients.contract.deployment import DeployedService, local_service, to_toml
from preceptor_clients.kit.files import write_whole
from preceptor_trainer.deployment.local import SELF_TEACHER, own_deployment
from preceptor_trainer.experiments.compare.method import Service

RUNS = "runs"
"""Folder of the cells' runs, and the root under which weights may lie."""


LARGER_MODEL = "preceptor_services.experts.larger_model:LargerModel"


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
    # In the student's own precision, so that its log-probs are exact beside the student's.
    options = {"model": str(model), "dtype": "float32", "memory_mb": 1024}
    return Service(use=LARGER_MODEL, options=options, is_model=True, larger=True)


class NoModel(ValueError):
    """A method needs a model that does not exist on this machine."""


def write_deployment(folder: Path, services: Mapping[str, Service], model: Path) -> Path:
    """Writes `preceptor.toml` for a comparison in `folder`; a changed plan changes the file.

    Raises:
        NoModel: a service's model does not exist.
    """
    runs = (folder / RUNS).resolve()
    runs.mkdir(parents=True, exist_ok=True)
    experts: dict[str, DeployedService] = {}
    for name, service in sorted(services.items()):
        options: dict[str, Any] = dict(service.options)
        if service.is_model:
            own: dict[str, Any] = {"model": str(model.resolve()), "name": name, "threads": 2}
            if not service.larger:
                own["weights_roots"] = [str(runs)]
            options = {**own, **service.options}
            if not Path(options["model"], "config.json").is_file():
                raise NoModel(
                    f"services: {name!r} has no model at {options['model']}; `make larger` makes "
                    "the larger model of the methods here, PRECEPTOR_LARGER_MODEL names its folder"
                )
        experts[name] = local_service(name, service.use, options)
    comment = "Made by `preceptor compare`. Ports 0 are chosen when it starts."
    text = to_toml(own_deployment(experts, weights_roots=[Path(RUNS)]), comment=comment)
    return write_whole(folder / "preceptor.toml", text)
