"""Commands as they are printed: what a person copies works where it was printed.

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
    """How this shell calls this installation's `preceptor`; its path where the name would not do.

    The environment that runs this may not be the one whose programs the shell finds.
    """
    own = Path(sys.executable).parent / "preceptor"
    if not own.exists():
        return shlex.join([sys.executable, "-m", "preceptor_clients.cli"])
    found = shutil.which("preceptor")
    if found is not None and os.path.samefile(found, own):
        return "preceptor"
    here = Path.cwd()
    # A working folder is told without its links, an environment may be one.
    near = [path for path in (own, own.parent.resolve() / own.name) if path.is_relative_to(here)]
    return shlex.quote(str(near[0].relative_to(here) if near else own))
