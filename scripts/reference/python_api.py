"""The Python API: one page a room, its modules from their docstrings."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from reference.docstrings import first_line
from reference.markdown import code, heading, join, table

ROOMS = (
    "preceptor_clients.contract",
    "preceptor_clients.http",
    "preceptor_clients.sdk",
    "preceptor_clients.targets",
    "preceptor_clients.conformance",
    "preceptor_clients.vllm_expert",
    "preceptor_services.experts",
    "preceptor_services.feedback",
    "preceptor_services.sandbox",
    "preceptor_trainer.collect",
    "preceptor_trainer.evaluation",
    "preceptor_trainer.learner",
    "preceptor_trainer.model",
    "preceptor_trainer.objectives",
    "preceptor_trainer.recipes",
    "preceptor_trainer.run",
    "preceptor_trainer.sampling",
    "preceptor_trainer.tasks",
    "preceptor_trainer.theory",
)
INTRODUCTION = """
# Python API

What other code may import, by room, with the modules' own docstrings. Rooms that are missing here
(gateway, store, dispatcher and others) are internal: they may change at any time.
"""


def pages() -> dict[str, str]:
    """An index and a page for every room."""
    found = {room: list(_modules(room)) for room in ROOMS}
    rows = [
        [f"[`{room}`]({_file(room)})", first_line(importlib.import_module(room).__doc__ or "")]
        for room in found
    ]
    index = join(INTRODUCTION, table(["room", "what it holds"], rows))
    rooms = {f"reference/python/{_file(room)}": _page(room, found[room]) for room in found}
    return {"reference/python/index.md": index, **rooms}


def _file(room: str) -> str:
    return room.removeprefix("preceptor_").replace(".", "-") + ".md"


def _page(room: str, modules: list[str]) -> str:
    return join(f"# {code(room)}", *(_module(name) for name in modules))


def _module(name: str) -> str:
    return join(heading(2, code(name), name), f"::: {name}")


def _modules(room: str) -> Iterator[str]:
    """The room itself and the public modules in it, those in folders too."""
    package = importlib.import_module(room)
    yield room
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        parts = module.name.removeprefix(room + ".").split(".")
        if not any(part.startswith("_") for part in parts):
            yield module.name
