"""Runs every attempt on the named rungs, as root or an ordinary user; prints what crossed a wall.

    python -m escapes.suite root|nobody RUNG...     from tests/services/sandbox

An ordinary user's programs run under the system's interpreter, since another may lie in a private
home; where the source tree does, that user keeps the right to read files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from run_restricted import LIBC, become_user, checked

import preceptor_services
from escapes.attempts import AS_USER_0, ATTEMPTS, IN_ITS_OWN_KERNEL
from escapes.world import World
from preceptor_services.sandbox.command import Command, CommandLimits, Sandbox
from preceptor_services.sandbox.isolation import IsolationFailed
from preceptor_services.sandbox.ladder import RUNGS, open_sandbox
from preceptor_services.sandbox.rungs.rung import RungOptions

LIMITS = CommandLimits(processes=24, memory_mb=512, files_mb=16, cpu_seconds=100, timeout_s=300)
PROGRAM = Path(__file__).with_name("attempts.py").read_text()
BATCH = 20
_LEAVE = (
    "import os, sys\n"
    "text = sys.stdin.read() * 50\n"
    "for place in ('.', '/tmp', '/dev/shm', '/var/tmp'):\n"
    "    try: open(place + '/left-behind', 'w').write(text)\n"
    "    except OSError: pass\n"
    "os.write(3, text.encode()[:4000])\n"
)


def try_everything(box: Sandbox, world: World) -> dict[str, Any]:
    """Each attempt that crossed a wall, with what it got hold of."""
    for text in (world.secret, "left-behind-in-memory-" + world.secret[::-1]):
        box.execute(Command(files={"main.py": _LEAVE}, stdin=text.encode()), LIMITS)
    found: dict[str, str | None] = {}
    crossed: dict[str, str] = {}
    ends: list[str] = []
    names = list(ATTEMPTS)
    for at in range(0, len(names), BATCH):
        command = Command(
            argv=("python", "attempts.py", *names[at : at + BATCH]),
            files={"attempts.py": PROGRAM},
            stdin=json.dumps(world.addresses(LIMITS)).encode(),
        )
        done = box.execute(command, LIMITS)
        ends.append(done.ended_by)
        found |= dict(json.loads(line) for line in done.stdout.splitlines())
        if world.secret.encode() in done.stdout + done.stderr:
            crossed[f"batch {at}"] = "the secret was printed"
        for change in world.changes():
            crossed[f"batch {at}"] = change
    inside: tuple[str, ...] = ()
    if RUNGS[str(box.describe()["level"])].own_kernel:
        inside = IN_ITS_OWN_KERNEL if os.geteuid() == 0 else (*IN_ITS_OWN_KERNEL, *AS_USER_0)
    for name, text in found.items():
        if text is not None and name not in inside:
            crossed[name] = f"{ATTEMPTS[name][0]}: {text}"
    missing = sorted(set(names) - set(found))
    return {"attempts": len(found), "crossed": crossed, "not_run": missing, "ends": ends}


def others_may_read(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def main() -> None:
    user, *rungs = sys.argv[1:]
    if user == "nobody" and os.geteuid() == 0:
        become_user(65_534)
        if others_may_read(Path(preceptor_services.__file__)):
            checked(LIBC.prctl(47, 4, 0, 0, 0))  # PR_CAP_AMBIENT_CLEAR_ALL
    options = RungOptions(python="/usr/bin/python3" if user == "nobody" else "")
    report: dict[str, Any] = {}
    for rung in rungs:
        world = World()
        try:
            box = open_sandbox(rung, options=options)
            report[rung] = {"isolation": box.describe(), **try_everything(box, world)}
            box.stop()
        except IsolationFailed as error:
            report[rung] = {"refused": str(error)}
        finally:
            world.close()
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
