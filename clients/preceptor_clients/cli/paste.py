"""Commands in printed messages, written so that they work when a person copies them.

pasted("trace", "t-1:3", "--run-dir", run_dir)
# .venv/bin/preceptor trace t-1:3 --run-dir 'my runs/a'
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def pasted(*words: str | Path) -> str:
    """`preceptor` with these words, quoted for a shell."""
    return f"{program()} {shlex.join(map(str, words))}"


def program() -> str:
    """This installation's `preceptor`: its name if the shell finds this one by it, else its path.

    The shell's search path may lead to another environment than the running one.
    """
    own = Path(sys.executable).parent / "preceptor"
    if not own.exists():
        return shlex.join([sys.executable, "-m", "preceptor_clients.cli"])
    found = shutil.which("preceptor")
    if found is not None and os.path.samefile(found, own):
        return "preceptor"
    here = Path.cwd()
    # The working folder comes with its links resolved; an environment's path may contain links.
    near = [path for path in (own, own.parent.resolve() / own.name) if path.is_relative_to(here)]
    return shlex.quote(str(near[0].relative_to(here) if near else own))
