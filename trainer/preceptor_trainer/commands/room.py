"""What a run needs of memory and disk, what there is, and whether it may begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from preceptor_clients.contract.deployment import DeployedService, Deployment
from preceptor_trainer.deployment.failures import say
from preceptor_trainer.deployment.local import SELF_TEACHER
from preceptor_trainer.kit.disk import MAKE_ROOM
from preceptor_trainer.kit.machine import free_memory_bytes, memory_bytes
from preceptor_trainer.kit.placement import placement
from preceptor_trainer.model.shape import shape_of
from preceptor_trainer.run.config import RunConfig
from preceptor_trainer.run.needs.disk_plan import DiskPlan, PassingPlan, disk_plan
from preceptor_trainer.run.needs.memory_plan import (
    PROGRAM_BYTES,
    MemoryPlan,
    gigabytes,
    listed,
    memory_plan,
)
from preceptor_trainer.runfile.building import Built
from preceptor_trainer.runfile.schema import RunFile
from preceptor_trainer.runfile.teachers import ALIGNING, LARGER_MODEL, OPENAI_SERVER, PEOPLE

_SERVICES_BYTES: Final = 400_000_000
"""Gateway, broker and dispatcher, and the processes that judge."""
_NEED_NO_WHOLE_VERSIONS: Final = {SELF_TEACHER, LARGER_MODEL, PEOPLE, OPENAI_SERVER, ALIGNING}
"""Experts that take adapters, or load no versions."""
_VERSIONS_KEPT: Final = 4
"""What a self-teacher keeps by default, beside its model and the first weights."""


@dataclass(frozen=True, kw_only=True)
class RoomPlan:
    """A run's needs, and the room for them."""

    run_dir: Path
    memory: MemoryPlan
    services: dict[str, int]
    """Bytes of each teacher's process on this machine, and of the services."""
    disk: DiskPlan
    whole_bytes: int
    """All memory where the run computes, used or not."""
    free_bytes: int
    """What nobody uses of it at the moment."""

    @property
    def needed_bytes(self) -> int:
        """Memory of the largest phase where the run computes, with all that is there beside it."""
        return self.memory.most[1] + sum(self.beside.values())

    @property
    def beside(self) -> dict[str, int]:
        """What else takes memory where the run computes: other processes, versions in memory."""
        passing = self.disk.passing
        if passing is None or not passing.in_memory or self.memory.device != "cpu":
            return self.services
        return {**self.services, f"versions in {passing.folder}": passing.most_bytes}


def plan_of(config: RunConfig, run_dir: Path, deployment: Deployment | None = None) -> RoomPlan:
    """The plan of a run.

    Args:
        config: The run.
        run_dir: Its folder, which need not exist.
        deployment: Its services on this machine; None where they run elsewhere.
    """
    device = placement(device=config.device, dtype=config.dtype).device
    experts = {} if deployment is None else deployment.experts
    services = {
        name: _teacher_bytes(service)
        for name, service in experts.items()
        if _is_on(device, service)
    }
    if deployment is not None and device.type == "cpu":
        services["services"] = _SERVICES_BYTES
    return RoomPlan(
        run_dir=run_dir,
        memory=memory_plan(config),
        services={name: size for name, size in services.items() if size},
        disk=disk_plan(
            config, shape_of(config.model), run_dir, adapters=_adapters_suffice(config, experts)
        ),
        whole_bytes=memory_bytes(device),
        free_bytes=free_memory_bytes(device),
    )


def _adapters_suffice(config: RunConfig, experts: Mapping[str, DeployedService]) -> bool:
    """What `adapter_publishes.py` will find, as far as it is known before services run."""
    if config.lora is None:
        return False
    if config.sampler is not None:
        # Runs that share a server have nothing else; what other servers take is not known yet.
        return bool(getattr(config.sampler, "shared", False))
    asked = [experts.get(use.name) for use in config.experts]
    return all(one is not None and one.use in _NEED_NO_WHOLE_VERSIONS for one in asked)


def _is_on(device: torch.device, service: DeployedService) -> bool:
    """Whether a teacher with a model computes where the run does."""
    try:
        own = placement(device=str(service.options.get("device", "auto"))).device
    except ValueError:  # the teacher refuses it when it is started
        return False
    return (own.type, own.index or 0) == (device.type, device.index or 0)


def services_here(run_file: RunFile, built: Built) -> Deployment | None:
    """The services that a run of a file starts; None where it uses a gateway that runs already."""
    return built.deployment if run_file.run.gateway is None else None


def _teacher_bytes(service: DeployedService) -> int:
    options: dict[str, Any] = service.options
    if service.use not in (SELF_TEACHER, LARGER_MODEL):
        return 0
    width = torch.finfo(getattr(torch, options.get("dtype", "float32"))).bits // 8
    copies = 1
    if service.use == SELF_TEACHER:
        copies = 2 + int(options.get("versions_kept", _VERSIONS_KEPT))
    return PROGRAM_BYTES + copies * width * shape_of(Path(options["model"])).num_parameters


def check_room(plan: RoomPlan, *, refuse: bool) -> None:
    """Says what is short; ends the command where the machine can never hold the run.

    Raises:
        typer.Exit: it is refused.
    """
    for problem in [*_memory_problems(plan), *_disk_problems(plan)]:
        say(problem)
        if refuse:
            say(
                'nothing was started; `preceptor plan` shows all of it, and run.when_short = "warn"'
                " begins all the same"
            )
            raise typer.Exit(1)
    if plan.free_bytes < plan.needed_bytes <= plan.whole_bytes:
        say(
            f"note: {_need(plan)}, and {gigabytes(plan.free_bytes)} are free at the moment; other "
            "programs may have to end first"
        )


def _memory_problems(plan: RoomPlan) -> list[str]:
    if plan.needed_bytes <= plan.whole_bytes:
        return []
    phase, _ = plan.memory.most
    keys = dict.fromkeys(key for part in listed(plan.memory.parts, phase) for key in part.keys)
    return [
        f"memory: {_need(plan)}, but {_place(plan)} has {gigabytes(plan.whole_bytes)}; what "
        f"changes it, the largest first: {', '.join(keys)}"
    ]


def _need(plan: RoomPlan) -> str:
    phase, most = plan.memory.most
    others = sum(plan.beside.values())
    beside = f" and its services {gigabytes(others)}" if others else ""
    return f"the trainer needs {gigabytes(most)} ({phase}){beside}"


def _place(plan: RoomPlan) -> str:
    return "this machine" if plan.memory.device == "cpu" else "the GPU"


def _disk_problems(plan: RoomPlan) -> list[str]:
    disk, problems = plan.disk, list[str]()
    passing = disk.passing
    if passing is not None and passing.most_bytes > passing.room_bytes:
        problems.append(
            f"model.scratch: {passing.folder} will hold {gigabytes(passing.most_bytes)} of "
            f"weights, and has room for {gigabytes(passing.room_bytes)}; make room there (a "
            "container's /dev/shm is 64 MB unless shm_size gives it more), or, for a new run, name "
            "another folder or save more often (run.save_every)"
        )
    if not disk.missing_bytes:
        return problems
    return [
        *problems,
        f"disk: {plan.run_dir} will hold {gigabytes(disk.most_bytes)} of weights and checkpoints, "
        f"and has room for {gigabytes(disk.free_bytes + disk.there_bytes)}; {MAKE_ROOM}, or keep "
        "fewer checkpoints (run.keep, run.save_every), or name a folder on a larger disk "
        "(run.folder)",
    ]


def shown(plan: RoomPlan) -> RenderableType:
    """The plan as tables."""
    tables = [*_memory_tables(plan), Text(), _disk_table(plan)]
    if plan.disk.passing is not None:
        tables += [Text(), _scratch_table(plan.disk.passing)]
    return Group(*tables)


def _memory_tables(plan: RoomPlan) -> list[RenderableType]:
    phase, most = plan.memory.most
    held = _table(f"memory of the trainer on {_place(plan)}, most in {phase}")
    for part in listed(plan.memory.parts, phase):
        words = [*([part.note] if part.note else []), ", ".join(part.keys)]
        held.add_row(part.name, gigabytes(part.num_bytes), "; ".join(filter(None, words)))
    held.add_row("together", gigabytes(most), "", style="bold")
    others = _table("other phases, and other processes")
    for name, size in plan.memory.peaks.items():
        if name != phase:
            others.add_row(name, gigabytes(size), "")
    for name, size in plan.beside.items():
        of_process = "a process of its own" if name in plan.services else "model.scratch"
        others.add_row(name, gigabytes(size), of_process)
    others.add_row(
        f"{_place(plan)} has",
        gigabytes(plan.whole_bytes),
        f"{gigabytes(plan.free_bytes)} free at the moment",
    )
    return [held, Text(), others]


def _disk_table(plan: RoomPlan) -> Table:
    disk = plan.disk
    table = _table(f"disk, in {plan.run_dir}")
    table.add_row(
        "weights of a step", gigabytes(disk.version_bytes), f"at most {disk.num_versions}"
    )
    if disk.num_adapters:
        table.add_row(
            "adapter of a step", gigabytes(disk.adapter_bytes), f"at most {disk.num_adapters}"
        )
    if disk.num_averages:
        table.add_row(
            "average of a teacher", gigabytes(disk.average_bytes), f"at most {disk.num_averages}"
        )
    table.add_row(
        "state of a checkpoint",
        gigabytes(disk.state_bytes),
        f"at most {disk.num_states}; run.keep, run.save_every",
    )
    table.add_row("together", gigabytes(disk.most_bytes), "", style="bold")
    there = f"{gigabytes(disk.there_bytes)} are there" if disk.there_bytes else ""
    table.add_row("room", gigabytes(disk.free_bytes), there)
    return table


def _scratch_table(passing: PassingPlan) -> Table:
    kind = "memory" if passing.in_memory else "disk"
    table = _table(f"{kind}, in {passing.folder}")
    table.add_row(
        "weights of a step", gigabytes(passing.version_bytes), f"at most {passing.num_versions}"
    )
    table.add_row("together", gigabytes(passing.most_bytes), "", style="bold")
    table.add_row("room", gigabytes(passing.free_bytes), "")
    return table


def _table(title: str) -> Table:
    table = Table(
        box=None, padding=(0, 2, 0, 0), title=title, title_justify="left", header_style="dim"
    )
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    table.show_header = False
    return table


def show(plan: RoomPlan, console: Console) -> None:
    """Prints the plan."""
    console.print(shown(plan), soft_wrap=True)
