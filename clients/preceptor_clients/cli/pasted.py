"""Commands as we print them: they work when they are pasted, from any folder."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def pasted(*words: str | Path) -> str:
    """`preceptor WORDS` for a shell; paths become absolute ones."""
    spoken = [str(word.resolve()) if isinstance(word, Path) else word for word in words]
    return shlex.join([_program(), *spoken])


def _program() -> str:
    """The bare name where the shell finds ours by it, else the path of the one that runs."""
    ours = Path(sys.executable).parent / "preceptor"
    found = shutil.which("preceptor")
    if found is not None and Path(found).resolve() == ours.resolve():
        return "preceptor"
    return str(ours)
